//! Names of the kernel's functions (`/proc/kallsyms`), of those addresses only that are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::sync::Arc;

/// Names that are known already.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    known: BTreeMap<u64, Option<Arc<str>>>,
    /// Addresses are hidden from this process (`kernel.kptr_restrict`).
    pub(super) hidden: bool,
}

impl Symbols {
    /// Looks up those that are not known yet.
    pub(super) fn look_up(&mut self, addresses: impl IntoIterator<Item = u64>) {
        let unknown: BTreeSet<u64> =
            addresses.into_iter().filter(|address| !self.known.contains_key(address)).collect();
        if unknown.is_empty() {
            return;
        }
        // Of each, the function that begins closest before it. The file is not sorted: modules come last.
        let mut closest: BTreeMap<u64, (u64, String)> = BTreeMap::new();
        let mut any = false;
        if let Ok(file) = std::fs::File::open("/proc/kallsyms") {
            for line in BufReader::new(file).lines().map_while(Result::ok) {
                let mut words = line.split_ascii_whitespace();
                let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else {
                    continue;
                };
                let Ok(address) = u64::from_str_radix(address, 16) else { continue };
                if address == 0 || !matches!(kind, "t" | "T" | "w" | "W") {
                    continue;
                }
                any = true;
                for wanted in unknown.range(address..).take_while(|wanted| **wanted - address < MAX_FUNCTION) {
                    let known = closest.entry(*wanted).or_default();
                    if address > known.0 {
                        *known = (address, name.to_owned());
                    }
                }
            }
        }
        self.hidden = !any;
        for address in unknown {
            let name = closest.remove(&address).map(|(_, name)| Arc::from(plain(&name)));
            self.known.insert(address, name);
        }
    }

    pub(super) fn name(&self, address: u64) -> Option<&str> {
        self.known.get(&address)?.as_deref()
    }
}

/// No function is longer.
const MAX_FUNCTION: u64 = 1 << 16;

/// Without what the compiler appends: `__mutex_lock.constprop.0`.
fn plain(name: &str) -> &str {
    name.split_once('.').map_or(name, |(name, _)| name)
}
