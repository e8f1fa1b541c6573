use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;

/// Gives its answers one after the other, the last one for ever.
struct Scripted {
    answers: Vec<Vec<IpAddr>>,
    asked: Arc<AtomicUsize>,
}

impl Resolve for Scripted {
    fn resolve(&self, _host: &str) -> BoxFuture<io::Result<Vec<IpAddr>>> {
        let turn = self.asked.fetch_add(1, Ordering::Relaxed).min(self.answers.len() - 1);
        let answer = self.answers[turn].clone();
        Box::pin(async move { Ok(answer) })
    }
}

fn scripted(egress: Egress, answers: &[&[&str]]) -> (Egress, Arc<AtomicUsize>) {
    let answers =
        answers.iter().map(|answer| answer.iter().map(|ip| ip.parse().unwrap()).collect()).collect();
    let asked = Arc::new(AtomicUsize::new(0));
    (egress.with_resolver(Scripted { answers, asked: asked.clone() }), asked)
}

fn egress(allow: &str, deny: &str) -> Egress {
    Egress::parse(allow, deny).unwrap()
}

fn allows(egress: &Egress, ip: &str) -> bool {
    egress.check(ip.parse().unwrap()).is_ok()
}

async fn resolved(egress: &Egress, host: &str) -> String {
    match egress.resolve(host, 80).await {
        Ok(found) => found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        Err(error) => error.to_string(),
    }
}

/// What can be written for an address that nobody may reach, whatever the rules say.
const METADATA: &[&str] = &[
    "169.254.169.254",
    "169.254.169.254.",
    "169.254.43518",
    "169.16689662",
    "2852039166",
    "0xa9fea9fe",
    "0xA9FEA9FE",
    "0xa9.0xfe.0xa9.0xfe",
    "0xA9.254.0251.0xFE",
    "0251.0376.0251.0376",
    "00251.00376.000251.0000376",
    "025177524776",
    "0251.254.169.254",
    "169.254.0xa9fe",
    "0xa9.16689662",
    "１６９.２５４.１６９.２５４",
    "169。254。169。254",
    "169．254．169．254",
    "169｡254｡169｡254",
    "①⑥⑨.②⑤④.①⑥⑨.②⑤④",
    "%31%36%39.254.169.254",
    "169%2e254%2e169%2e254",
    "169%E3%80%82254.169.254",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[::FFFF:A9FE:A9FE]",
    "[0:0:0:0:0:ffff:a9fe:a9fe]",
    "[0000:0000:0000:0000:0000:ffff:169.254.169.254]",
    "::ffff:169.254.169.254",
    "[::169.254.169.254]",
    "[::a9fe:a9fe]",
    "[::ffff:0:169.254.169.254]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[64:ff9b:1:a9fe:a9:fe00::]",
    "[64:ff9b:1:a9:fe:a9fe::]",
    "[64:ff9b:1:0:a9:fea9:fe00:0]",
    "[2002:a9fe:a9fe::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:a9fe:a9fe::]",
    "[2001::5601:5601]",
    "[2001:db8::5efe:a9fe:a9fe]",
    "[2001:db8::200:5efe:169.254.169.254]",
    "169.254.0.1",
    "169.254.170.2",
    "[fe80::1]",
    "[FE80::a9fe:a9fe]",
    "[febf:ffff::1]",
    "fe80::1",
    "[fd00:ec2::254]",
    "fd00:0ec2:0:0:0:0:0:254",
    "[fd00:ec2::23]",
    "[fd20:ce::254]",
    "[fd00:c1::a9fe:a9fe]",
    "[fd00:42::42]",
    "100.100.100.200",
    "0x64.0x64.0x64.0xc8",
    "1684301000",
    "192.0.0.192",
    "168.63.129.16",
    "224.0.0.1",
    "239.255.255.255",
    "255.255.255.255",
    "4294967295",
    "[ff02::1]",
    "0.1.2.3",
    "0x1",
];

/// What is no host for anybody here, though some resolver might make an address of it.
const NO_HOST: &[&str] = &[
    "",
    ".",
    "..",
    "a..b",
    "169.254.169.254..",
    "169.254.169.254.0",
    "169.254.169.256",
    "4294967296",
    "[fe80::1%25eth0]",
    "[fe80::1%eth0]",
    "fe80::1%1",
    "[::1",
    "::1]",
    "[127.0.0.1]",
    "[[::1]]",
    "127.0.0.1:80",
    "user@127.0.0.1",
    "127.0.0.1/x",
    "127.0.0.1#",
    "127.0.0.1\\",
    "127.0.0.1\0",
    "12\u{0}7.0.0.1",
    "127.0.0.1 ",
    "1.2.3.08",
    "foo.0x7f",
    "%00",
    "%5b::1%5d",
];

#[tokio::test]
async fn no_spelling_leads_to_a_metadata_address() {
    // The resolver must not even be asked for what is an address.
    let (open, asked) = scripted(egress("*", ""), &[&["93.184.216.34"]]);
    for spelling in METADATA {
        let error = open.resolve(spelling, 80).await.unwrap_err();
        assert!(matches!(error, Error::Denied(_)), "{spelling}: {error}");
        assert!(open.check_host(spelling, 80).is_err(), "{spelling}");
    }
    for spelling in NO_HOST {
        let error = open.resolve(spelling, 80).await.unwrap_err();
        assert!(matches!(error, Error::Host(_)), "{spelling}: {error}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_is_denied_is_denied_in_every_spelling() {
    let closed = egress("", "127.0.0.0/8, ::1, 10.0.0.0/8");
    for spelling in [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "127.0.0.1.",
        "127.255.255.255",
        "0x7f.1",
        "0177.1",
        "0x7f000001",
        "017700000001",
        "2130706433",
        "１２７.1",
        "127。0。0。1",
        "0.0.0.0",
        "0",
        "0x0",
        "0.0",
        "[::]",
        "::",
        "[::1]",
        "0:0:0:0:0:0:0:1",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[::ffff:0.0.0.0]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::0.0.0.0]",
        "[2002:7f00:1::]",
        "[::ffff:0:127.0.0.1]",
        "10.0.0.1",
        "10.1",
        "012.0.0.1",
        "0xa000001",
        "167772161",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::10.0.0.1]",
        "[2002:a00:1::]",
        "[2001:0:a00:1::]",
        "[2001:0:5db8:d822::f5ff:fffe]",
        "[fd12::5efe:10.0.0.1]",
        "[64:ff9b:1::10.0.0.1]",
    ] {
        let error = closed.resolve(spelling, 80).await.unwrap_err();
        assert!(matches!(error, Error::Denied(_)), "{spelling}: {error}");
    }
    for open in [
        "93.184.216.34",
        "11.0.0.1",
        "[2606:2800::1]",
        "[64:ff9b::93.184.216.34]",
        "[64:ff9b:1::93.184.216.34]",
    ] {
        assert!(closed.resolve(open, 80).await.is_ok(), "{open}");
    }
}

#[test]
fn private_ranges_are_closed_by_one_word() {
    let closed = egress("10.1.0.0/16", "private");
    for inside in [
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "0.0.0.0",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "198.18.0.1",
        "240.0.0.1",
        "::1",
        "::",
        "fc00::1",
        "fdff::1",
        "fec0::1",
        "::ffff:192.168.0.1",
        "64:ff9b::192.168.0.1",
        "2002:c0a8:1::1",
    ] {
        assert!(!allows(&closed, inside), "{inside}");
    }
    for outside in
        ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "172.32.0.1", "8.8.8.8", "2606:2800::1"]
    {
        assert!(allows(&closed, outside), "{outside}");
    }
}

#[test]
fn everything_is_open_by_default() {
    let open = Egress::default();
    for ip in ["127.0.0.1", "0.0.0.0", "10.0.0.1", "::1", "fd00::1", "93.184.216.34", "2606:2800::1"] {
        assert!(allows(&open, ip), "{ip}");
    }
}

#[test]
fn exceptions_hold_where_they_are_meant() {
    let few = egress("93.184.216.34", "*");
    assert!(allows(&few, "93.184.216.34"));
    assert!(allows(&few, "::ffff:93.184.216.34"));
    assert!(allows(&few, "64:ff9b::93.184.216.34"));
    assert!(!allows(&few, "93.184.216.35"));
    assert!(!allows(&few, "2606:2800::1"));
    // A range that means the carrier holds for it, whatever it carries; an exception for the carrier frees no cargo.
    assert!(!allows(&egress("", "64:ff9b::/96"), "64:ff9b::93.184.216.34"));
    assert!(!allows(&egress("64:ff9b::/96", "10.0.0.0/8"), "64:ff9b::10.0.0.1"));
    assert!(!allows(&egress("", "::ffff:10.0.0.0/104"), "10.1.2.3"));
    assert!(!allows(&egress("169.254.0.0/16, *", ""), "169.254.169.254"));
}

#[tokio::test]
async fn names_are_judged_by_every_address_that_they_have() {
    let (closed, _) =
        scripted(egress("", "private"), &[&["10.0.0.1", "93.184.216.34", "::1", "93.184.216.34"]]);
    assert_eq!(resolved(&closed, "both.example").await, "93.184.216.34:80");
    let (closed, _) = scripted(egress("", "private"), &[&["10.0.0.1"]]);
    assert_eq!(
        resolved(&closed, "Inside.Example").await,
        "inside.example (10.0.0.1) is out of reach for scripts: deny-net has `private`"
    );
    let (open, _) = scripted(Egress::default(), &[&["169.254.169.254"]]);
    assert_eq!(
        resolved(&open, "metadata.google.internal").await,
        "metadata.google.internal (169.254.169.254) is out of reach for scripts: a link-local address"
    );
    let (open, _) = scripted(Egress::default(), &[&[]]);
    assert_eq!(resolved(&open, "nobody.example").await, "nobody.example has no address");
}

#[tokio::test]
async fn a_resolver_that_changes_its_mind_changes_nothing() {
    let (closed, asked) = scripted(
        egress("", "private"),
        &[&["93.184.216.34"], &["127.0.0.1"], &["169.254.169.254"], &["::1"]],
    );
    // What was checked is what is returned: there is no second look-up.
    assert_eq!(resolved(&closed, "rebind.example").await, "93.184.216.34:80");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    for _ in 0..3 {
        assert!(closed.resolve("rebind.example", 80).await.is_err());
    }
    assert_eq!(asked.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn hosts_are_allowed_and_denied_by_name() {
    let rules = egress("db.internal, *.good.example", "private, evil.example, *.bad.example");
    let (rules, asked) = scripted(rules, &[&["10.0.0.1"]]);
    for open in ["db.internal", "DB.Internal.", "a.good.example", "a.b.good.example", "ａ.good.example"] {
        assert_eq!(resolved(&rules, open).await, "10.0.0.1:80", "{open}");
    }
    for closed in ["db.internal.example", "xdb.internal", "good.example", "notgood.example"] {
        assert!(resolved(&rules, closed).await.ends_with("deny-net has `private`"), "{closed}");
    }
    let before = asked.load(Ordering::Relaxed);
    for closed in ["evil.example", "EVIL.example.", "x.bad.example", "evil。example", "evil%2eexample"] {
        assert!(resolved(&rules, closed).await.contains("deny-net has"), "{closed}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), before, "what is denied by name is not looked up");
    // A name that is allowed still leads nowhere that nobody may go.
    let (rules, _) = scripted(egress("db.internal", "private"), &[&["169.254.1.1"]]);
    assert!(rules.resolve("db.internal", 80).await.is_err());
}

#[tokio::test]
async fn where_only_names_are_allowed_no_other_is_looked_up() {
    let (few, asked) = scripted(egress("api.example", "*"), &[&["93.184.216.34"]]);
    assert!(few.resolve("secret.attacker.example", 80).await.is_err());
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    assert_eq!(resolved(&few, "api.example").await, "93.184.216.34:80");
    let (some, asked) = scripted(egress("93.184.216.0/24", "*"), &[&["93.184.216.34"], &["8.8.8.8"]]);
    assert_eq!(resolved(&some, "any.example").await, "93.184.216.34:80");
    assert!(some.resolve("any.example", 80).await.is_err());
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[test]
fn rules_are_read_and_written() {
    for (text, shown) in [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("::1", "::1/128"),
        ("[fd00::]/8", "fd00::/8"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("*", "*"),
        ("private", "private"),
        ("DB.Internal.", "db.internal"),
        ("*.Bücher.example", "*.xn--bcher-kva.example"),
        ("under_score", "under_score"),
    ] {
        assert_eq!(text.parse::<Rule>().map(|rule| rule.to_string()), Ok(shown.to_owned()), "{text}");
    }
    for (text, part) in [
        ("", "got ``"),
        ("10.0.0.0/33", "at most 32 bits"),
        ("10.0.0.0/", "expected a host"),
        ("10.0.0.0/+8", "expected a host"),
        ("10.0.0.0/8/8", "expected a host"),
        ("10.1.2.3/8", "write `10.0.0.0/8` for the range, or `10.1.2.3` alone"),
        ("10.1", "write that address as `10.0.0.1`"),
        ("0x7f000001", "write that address as `127.0.0.1`"),
        ("host/8", "expected a host"),
        ("http://x", "expected a host"),
        ("a b", "expected a host"),
        ("a..b", "expected a host"),
        ("*.", "expected a host"),
        ("*.*.x", "expected a host"),
        ("x.*.y", "expected a host"),
        ("*.10.0.0.1", "expected a host"),
        ("db.internal:5432", "expected a host"),
    ] {
        let error = text.parse::<Rule>().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    assert!(Egress::parse("a,,b", "").is_err());
    assert!(Egress::parse("", " ").is_ok());
}

/// The ways to write an IPv4 address.
fn spellings(ip: Ipv4Addr) -> impl Strategy<Value = String> {
    let part = |value: u32| {
        prop_oneof![
            Just(format!("{value}")),
            Just(format!("0{value:o}")),
            Just(format!("000{value:o}")),
            Just(format!("0x{value:x}")),
            Just(format!("0X00{value:X}")),
        ]
    };
    let [a, b, c, d] = ip.octets().map(u32::from);
    let dotted = prop_oneof![
        (part(a), part(b), part(c), part(d)).prop_map(|(a, b, c, d)| format!("{a}.{b}.{c}.{d}")),
        (part(a), part(b), part(c << 8 | d)).prop_map(|(a, b, c)| format!("{a}.{b}.{c}")),
        (part(a), part(b << 16 | c << 8 | d)).prop_map(|(a, b)| format!("{a}.{b}")),
        part(u32::from(ip)),
    ];
    let disguised = (dotted, 0..6_u8, any::<bool>()).prop_map(|(text, disguise, dot)| {
        let text = if dot { text + "." } else { text };
        match disguise {
            0 => text.replace('.', "。"),
            1 => text.replace('.', "%2E"),
            2 => text
                .chars()
                .map(|c| char::from_digit(c.to_digit(10).unwrap_or(99), 10).map_or(c, |_| wide(c)))
                .collect(),
            3 => text.bytes().map(|byte| format!("%{byte:02x}")).collect(),
            _ => text,
        }
    });
    let v6 = (0..9_u8, any::<u64>(), any::<bool>()).prop_map(move |(form, noise, dotted)| {
        let v4 = u128::from(u32::from(ip));
        let noise = u128::from(noise);
        let address = match form {
            0 => 0xffff << 32 | v4,
            1 => v4,
            2 => 0xffff << 48 | v4,
            3 => 0x64_ff9b << 96 | v4,
            4 => 0x2002 << 112 | v4 << 80 | noise,
            5 => 0x2001_0000 << 96 | v4 << 64 | noise,
            6 => 0x2001_0000 << 96 | noise << 32 | (!v4 & 0xffff_ffff),
            7 => noise << 64 | 0x5efe << 32 | v4,
            _ => 0x64_ff9b_0001 << 80 | v4,
        };
        let [.., high, low] = Ipv6Addr::from(address).segments();
        let text = if dotted && high != 0 {
            let head: Vec<String> = Ipv6Addr::from(address).segments()[..6]
                .iter()
                .map(|segment| format!("{segment:X}"))
                .collect();
            format!("{}:{}", head.join(":"), Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
        } else {
            Ipv6Addr::from(address).to_string()
        };
        format!("[{text}]")
    });
    prop_oneof![disguised, v6]
}

fn wide(digit: char) -> char {
    char::from_u32(0xff10 + digit as u32 - '0' as u32).unwrap()
}

proptest! {
    #[test]
    fn a_closed_address_is_closed_however_it_is_spelled(
        (ip, spelling) in prop_oneof![
            (0..1_u32 << 16).prop_map(|low| 0xa9fe_0000 | low),
            (0..1_u32 << 24).prop_map(|low| 0x0a00_0000 | low),
            (0..1_u32 << 24).prop_map(|low| 0x7f00_0000 | low),
        ].prop_flat_map(|ip| (Just(Ipv4Addr::from(ip)), spellings(Ipv4Addr::from(ip))))
    ) {
        let closed = egress("", "private");
        let judged = closed.check_host(&spelling, 80);
        prop_assert!(matches!(judged, Err(Error::Denied(_))), "{ip} as {spelling}: {judged:?}");
    }

    #[test]
    fn any_text_is_judged_without_harm(text in any::<String>()) {
        let open = Egress::default();
        if let Ok(Host::Address(ip)) = open.check_host(&text, 80) {
            prop_assert!(open.check(ip).is_ok());
        }
        if let Ok(rule) = text.parse::<Rule>() {
            prop_assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule));
        }
    }

    #[test]
    fn a_range_closes_what_is_in_it_and_nothing_else(address: u128, bits in 0..=128_u8, other: u128) {
        let first = address::masked(Ipv6Addr::from(address).into(), bits);
        let rule: Rule = format!("{first}/{bits}").parse().unwrap();
        let IpAddr::V6(first) = first else { unreachable!() };
        prop_assume!(first.to_ipv4_mapped().is_none());
        let inside = (u128::from(first) >> (128 - u32::from(bits)).min(127)) == (other >> (128 - u32::from(bits)).min(127)) || bits == 0;
        prop_assert!(rule.ranges_over(Ipv6Addr::from(address).into()));
        prop_assert_eq!(rule.ranges_over(Ipv6Addr::from(other).into()), inside);
    }
}

#[tokio::test]
async fn the_system_is_asked_for_what_is_no_address() {
    let found = Egress::default().resolve("localhost", 80).await.unwrap();
    assert!(
        !found.is_empty() && found.iter().all(|address| address.ip().is_loopback() && address.port() == 80)
    );
    let closed = egress("", "private").resolve("localhost", 80).await.unwrap_err();
    assert!(matches!(closed, Error::Denied(_)), "{closed}");
}

/// The addresses of this machine that are not of the loopback range, as far as its routes tell.
fn own_addresses() -> Vec<IpAddr> {
    // Nothing is sent: only the source that packets would have is asked for.
    let source = |target: &str| {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect(target).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    source("192.0.2.1:9").into_iter().collect()
}

#[tokio::test]
async fn the_health_port_is_closed_at_every_address_of_this_machine() {
    let refused = "it is this worker's own health port; `--allow-net health-port` opens it to scripts";
    let guarded = egress("", "").with_health_port(8787);
    let mut spellings: Vec<String> = [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "127.9.9.9",
        "0.0.0.0",
        "::1",
        "::",
        "[::1]",
        "::ffff:127.0.0.1",
        "::ffff:0.0.0.0",
        "64:ff9b::7f00:1",
        "::127.0.0.1",
        "2002:7f00:1::",
    ]
    .map(str::to_owned)
    .to_vec();
    for own in own_addresses() {
        spellings.push(own.to_string());
        if let IpAddr::V4(own) = own {
            spellings.push(own.to_ipv6_mapped().to_string());
        }
    }
    for host in &spellings {
        let error = guarded.resolve(host, 8787).await.unwrap_err().to_string();
        assert!(
            error.contains(":8787 is out of reach for scripts: ") && error.ends_with(refused),
            "{host}: {error}"
        );
        assert!(guarded.resolve(host, 8788).await.is_ok(), "{host}");
        assert!(guarded.check_host(host, 8787).is_err(), "{host}");
    }
    // The same port of another machine is another one's.
    assert!(guarded.resolve("192.0.2.7", 8787).await.is_ok());
    assert!(guarded.resolve("2001:db8::7", 8787).await.is_ok());
}

#[tokio::test]
async fn a_name_of_this_machine_does_not_lead_to_the_health_port() {
    let (guarded, _) = scripted(egress("", "").with_health_port(8787), &[&["127.0.0.1"]]);
    let error = guarded.resolve("innocent.example", 8787).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "innocent.example (127.0.0.1:8787) is out of reach for scripts: it is this worker's own health port; \
         `--allow-net health-port` opens it to scripts"
    );
    // What is left of a name with several addresses.
    let (guarded, _) = scripted(egress("", "").with_health_port(8787), &[&["127.0.0.1", "192.0.2.7"]]);
    let found = guarded.resolve("innocent.example", 8787).await.unwrap();
    assert_eq!(found, ["192.0.2.7:8787".parse().unwrap()]);
}

#[tokio::test]
async fn only_its_own_rule_opens_the_health_port() {
    for allow in ["127.0.0.1", "127.0.0.0/8", "localhost", "private", "*"] {
        let (guarded, _) = scripted(egress(allow, "private").with_health_port(8787), &[&["127.0.0.1"]]);
        assert!(guarded.resolve("localhost", 8787).await.is_err(), "{allow}");
        assert!(guarded.resolve("127.0.0.1", 8787).await.is_err(), "{allow}");
    }
    let open = egress("health-port", "").with_health_port(8787);
    assert!(open.resolve("127.0.0.1", 8787).await.is_ok());
    // It makes no exception from what is denied otherwise.
    let open = egress("health-port", "private").with_health_port(8787);
    let error = open.resolve("127.0.0.1", 8787).await.unwrap_err().to_string();
    assert_eq!(error, "127.0.0.1 is out of reach for scripts: deny-net has `private`");
    // A name that could only lead there is not looked up.
    let (closed, asked) = scripted(egress("health-port", "*"), &[&["127.0.0.1"]]);
    assert!(closed.resolve("x.example", 8787).await.is_err());
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}
