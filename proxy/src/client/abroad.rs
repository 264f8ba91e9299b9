//! How far chillgate goes where somebody else sends it: an address that is configured is reached
//! wherever it is; one that a document or a server names is followed within the configured one's own
//! origin, or to an address that is public.
//!
//! Apart because an address is judged here once it is one: whatever a name resolves to is what is
//! connected to, so that nothing lies between the check and the connection. It connects to nothing.

use std::net::{IpAddr, Ipv6Addr};

use http::Uri;
use ip_network::{IpNetwork, Ipv6Network};

/// What is said where no address is public.
pub(super) const NOT_PUBLIC: &str =
    "is at no public address; what is meant to be reached there is to be configured";

/// Addresses of IPv6 that lead to those of IPv4, private ones among them: 6to4 and Teredo; and what is
/// there to be written about (RFC 9637).
const WITHIN: [(u16, u16, u8); 3] = [(0x2002, 0, 16), (0x2001, 0, 32), (0x3fff, 0, 20)];

/// Whether anybody on the internet could be meant by this address, and nothing nearer.
pub(super) fn is_public(ip: IpAddr) -> bool {
    // An address of IPv4 is the same however it is written.
    let ip = ip.to_canonical();
    if ip.is_multicast() || !IpNetwork::from(ip).is_global() {
        return false;
    }
    let IpAddr::V6(ip) = ip else { return true };
    let is_in = |first, second, length| {
        let net = Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0);
        Ipv6Network::new(net, length).is_ok_and(|net| net.contains(ip))
    };
    // All that is given out to be reached is there (RFC 4291, section 2.4).
    is_in(0x2000, 0, 3) && !WITHIN.iter().any(|net| is_in(net.0, net.1, net.2))
}

/// The address that a URL itself names, where it names no host.
pub(super) fn literal(uri: &Uri) -> Option<IpAddr> {
    uri.host()?.trim_matches(['[', ']']).parse().ok()
}

/// Whether two URLs have scheme, host and port in common.
pub fn is_same_origin(one: &Uri, other: &Uri) -> bool {
    let port = |uri: &Uri| {
        uri.port_u16().or_else(|| {
            Some(if uri.scheme_str()? == "https" {
                443
            } else {
                80
            })
        })
    };
    one.scheme_str() == other.scheme_str()
        && one.host().map(str::to_ascii_lowercase) == other.host().map(str::to_ascii_lowercase)
        && port(one) == port(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_not_public_however_it_is_written() {
        for public in [
            "93.184.216.34",
            "8.8.8.8",
            "172.32.0.1",
            "2606:2800:220:1::1",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
        ] {
            assert!(is_public(public.parse().expect(public)), "{public}");
        }
        for near in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(near.parse().expect(near)), "{near}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let own: Uri = "https://issuer.example/a".parse().expect("a URI");
        for (other, same) in [
            ("https://ISSUER.example:443/b", true),
            ("http://issuer.example/a", false),
            ("https://issuer.example:8443/a", false),
            ("https://issuer.example.evil/a", false),
            ("https://issuer.example@evil.example/a", false),
        ] {
            let other: Uri = other.parse().expect("a URI");
            assert_eq!(is_same_origin(&own, &other), same, "{other}");
        }
    }
}
