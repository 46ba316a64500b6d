//! The names of kernel parameters (sysctl(8)).

use std::borrow::Cow;

/// The name with dots between its parts. If a slash comes first, slashes separate, and dots are part of a name as in
/// "net/ipv4/conf/eth0.100/rp_filter".
pub(super) fn dotted(name: &str) -> Cow<'_, str> {
    match name.find(['.', '/']) {
        Some(first) if name[first..].starts_with('/') => Cow::Owned(traded(name)),
        _ => Cow::Borrowed(name),
    }
}

/// The file of the parameter `name` below /proc/sys.
pub fn file(name: &str) -> String {
    traded(&dotted(name))
}

/// `name` in which "." and "/" have traded places.
fn traded(name: &str) -> String {
    let trade = |letter| match letter {
        '.' => '/',
        '/' => '.',
        letter => letter,
    };
    name.chars().map(trade).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_write_a_name() {
        for (name, with_dots, of_file) in [
            ("net.ipv4.ip_forward", "net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            (
                "net/ipv4/conf/eth0.100/rp_filter",
                "net.ipv4.conf.eth0/100.rp_filter",
                "net/ipv4/conf/eth0.100/rp_filter",
            ),
            (
                "net.ipv4.conf.eth0/100.rp_filter",
                "net.ipv4.conf.eth0/100.rp_filter",
                "net/ipv4/conf/eth0.100/rp_filter",
            ),
            ("", "", ""),
        ] {
            assert_eq!((dotted(name).as_ref(), file(name).as_str()), (with_dots, of_file), "{name:?}");
        }
    }
}
