//! Sets of words, as enums that older versions can still read.

/// Defines an enum of words. The last variant stands for every word that this version does not know, so that it can read what newer
/// versions wrote.
macro_rules! vocabulary {
    (
        $(#[$meta:meta])*
        $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+
            ..
            $(#[$other_meta:meta])* $other:ident = $other_word:literal
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_meta])* #[serde(rename = $word)] $variant,)+
            $(#[$other_meta])*
            ///
            /// Words that this version does not know are read as this one.
            #[default]
            #[serde(rename = $other_word, other)]
            $other,
        }

        impl $name {
            /// All variants.
            pub const ALL: &[Self] = &[$(Self::$variant,)+ Self::$other];

            /// The words of all of them, as they are serialised.
            pub const NAMES: &[&str] = &[$($word,)+ $other_word];

            /// The word, as it is serialised.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                    Self::$other => $other_word,
                }
            }

            /// The variant with this name; the last one if this version does not know the name.
            pub fn from_name(name: &str) -> Self {
                Self::ALL.iter().copied().find(|known| known.name() == name).unwrap_or_default()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

pub(crate) use vocabulary;

#[cfg(test)]
mod tests {
    use crate::{KillScope, RequestKind, WaitsFor};

    #[test]
    fn unknown_words_are_taken() {
        for kind in RequestKind::ALL {
            let json = serde_json::to_string(kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
            assert_eq!(serde_json::from_str::<RequestKind>(&json).unwrap(), *kind);
            assert_eq!(RequestKind::from_name(kind.name()), *kind);
        }
        assert_eq!(serde_json::from_str::<RequestKind>("\"zone_append\"").unwrap(), RequestKind::Other);
        assert_eq!(serde_json::from_str::<KillScope>("\"numa_node\"").unwrap(), KillScope::Unknown);
        assert_eq!(serde_json::from_str::<WaitsFor>("\"a_tape\"").unwrap(), WaitsFor::Unknown);
        assert!(serde_json::from_str::<KillScope>("3").is_err());
    }
}
