//! What an address means: where it leads to, and whether anybody should go there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address as it is written, and the ones that a packet to it would reach.
pub(super) struct Views {
    /// Without the disguise of an IPv4-mapped address, which is nothing but another spelling.
    pub(super) written: IpAddr,
    /// Never empty. Several where the form leaves open which part of it is the IPv4 address: each has to be allowed.
    pub(super) targets: Vec<IpAddr>,
}

/// Link-local ranges, metadata services that have an address outside of those, and addresses of no single host.
const NEVER: &[(IpAddr, u8, &str)] = &[
    (v4(169, 254, 0, 0), 16, LINK_LOCAL),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0]), 10, LINK_LOCAL),
    // Of Alibaba Cloud, Oracle Cloud and Azure.
    (v4(100, 100, 100, 200), 32, METADATA),
    (v4(192, 0, 0, 192), 32, METADATA),
    (v4(168, 63, 129, 16), 32, METADATA),
    // Of AWS (all that it keeps in there is its own), Google Cloud, Oracle Cloud and Scaleway.
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0]), 32, METADATA),
    (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]), 128, METADATA),
    (v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]), 128, METADATA),
    (v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]), 128, METADATA),
    (v4(224, 0, 0, 0), 4, MULTICAST),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0]), 8, MULTICAST),
    (v4(255, 255, 255, 255), 32, "a broadcast address"),
    // 0.0.0.0 itself is another way to write the loopback address.
    (v4(0, 0, 0, 0), 8, "an address of no host"),
];

const LINK_LOCAL: &str = "a link-local address";
const METADATA: &str = "an address of a cloud's metadata service";
const MULTICAST: &str = "a multicast address";

/// What is not of the public internet.
const PRIVATE: &[(IpAddr, u8)] = &[
    (v4(10, 0, 0, 0), 8),
    (v4(100, 64, 0, 0), 10),
    (v4(127, 0, 0, 0), 8),
    (v4(172, 16, 0, 0), 12),
    (v4(192, 0, 0, 0), 24),
    (v4(192, 168, 0, 0), 16),
    (v4(198, 18, 0, 0), 15),
    (v4(240, 0, 0, 0), 4),
    (v6([0, 0, 0, 0, 0, 0, 0, 1]), 128),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0]), 7),
    // Deprecated, but routed where it still is.
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0]), 10),
];

impl Views {
    pub(super) fn of(ip: IpAddr) -> Self {
        let written = ip.to_canonical();
        let targets = match written {
            // Systems connect to themselves if asked for no address in particular.
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => vec![Ipv4Addr::LOCALHOST.into()],
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => vec![Ipv6Addr::LOCALHOST.into()],
            IpAddr::V4(_) | IpAddr::V6(Ipv6Addr::LOCALHOST) => vec![written],
            IpAddr::V6(v6) => match embedded(v6) {
                inside if inside.is_empty() => vec![written],
                inside => inside.into_iter().flat_map(|v4| Self::of(v4.into()).targets).collect(),
            },
        };
        Self { written, targets }
    }

    /// Why nobody may go there, if so.
    pub(super) fn never(&self) -> Option<&'static str> {
        let views = self.targets.iter().chain([&self.written]).filter(|view| !view.is_unspecified());
        let mut all =
            views.flat_map(|view| NEVER.iter().filter(|(range, bits, _)| in_range(*view, *range, *bits)));
        all.next().map(|(_, _, why)| *why)
    }
}

/// The IPv4 addresses that an IPv6 address may carry.
fn embedded(ip: Ipv6Addr) -> Vec<Ipv4Addr> {
    let octets = ip.octets();
    let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| octets[place]));
    let last = at([12, 13, 14, 15]);
    match ip.segments() {
        // Compatible, and translated by SIIT.
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => vec![last],
        // NAT64: the well-known prefix, and the one for local use, which may be of any length from there on.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => vec![last],
        [0x64, 0xff9b, 1, ..] => {
            let mut readings = vec![at([6, 7, 9, 10]), at([7, 9, 10, 11]), at([9, 10, 11, 12]), last];
            // Those that were never meant are full of zeros.
            if readings.iter().any(|v4| v4.octets()[0] != 0) {
                readings.retain(|v4| v4.octets()[0] != 0);
            }
            readings
        }
        // 6to4.
        [0x2002, ..] => vec![at([2, 3, 4, 5])],
        // Teredo: the server, and the client, which is written inverted.
        [0x2001, 0, ..] => vec![at([4, 5, 6, 7]), Ipv4Addr::from(!u32::from(last))],
        // ISATAP, under any prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => vec![last],
        _ => Vec::new(),
    }
}

pub(super) fn is_private(ip: IpAddr) -> bool {
    PRIVATE.iter().any(|(range, bits)| in_range(ip, *range, *bits))
}

/// Whether the first `bits` of an address are those of `range`.
pub(super) fn in_range(ip: IpAddr, range: IpAddr, bits: u8) -> bool {
    ip.is_ipv4() == range.is_ipv4() && masked(ip, bits) == masked(range, bits)
}

/// The address with all but its first `bits` cleared.
pub(super) fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or(0);
            Ipv4Addr::from(u32::from(v4) & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or(0);
            Ipv6Addr::from(u128::from(v6) & mask).into()
        }
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(segments: [u16; 8]) -> IpAddr {
    let [a, b, c, d, e, f, g, h] = segments;
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}
