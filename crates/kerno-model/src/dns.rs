//! Names of DNS's numbers.

use std::borrow::Cow;

/// The name of a type of record: `A`, `AAAA`, `TYPE65280` for one without a name (RFC 3597).
pub fn type_name(qtype: u16) -> Cow<'static, str> {
    Cow::Borrowed(match qtype {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        13 => "HINFO",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        39 => "DNAME",
        43 => "DS",
        44 => "SSHFP",
        46 => "RRSIG",
        47 => "NSEC",
        48 => "DNSKEY",
        52 => "TLSA",
        64 => "SVCB",
        65 => "HTTPS",
        251 => "IXFR",
        252 => "AXFR",
        255 => "ANY",
        257 => "CAA",
        _ => return Cow::Owned(format!("TYPE{qtype}")),
    })
}

/// The name of a response code: `NOERROR`, `NXDOMAIN`, `RCODE11` for one without a name.
pub fn rcode_name(rcode: u8) -> String {
    const NAMES: [&str; 11] = [
        "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH",
        "NOTZONE",
    ];
    NAMES.get(usize::from(rcode)).map_or_else(|| format!("RCODE{rcode}"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_a_name_are_told() {
        assert_eq!((type_name(28), type_name(65280)), ("AAAA".into(), "TYPE65280".into()));
        assert_eq!((rcode_name(3).as_str(), rcode_name(15).as_str()), ("NXDOMAIN", "RCODE15"));
    }
}
