/// For keys that the kernel chooses (ids, addresses), where hashing would be much of the work.
pub(crate) type FastMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
