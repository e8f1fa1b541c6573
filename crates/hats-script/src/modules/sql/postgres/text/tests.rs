use proptest::prelude::*;

use super::*;

fn plain_text(number: u32, bytes: &[u8]) -> String {
    match read(&Kind::Plain(number), bytes) {
        Ok(Value::Text(text)) => text,
        other => format!("{other:?}"),
    }
}

/// The binary form of a numeric, from what it is written as.
fn numeric_bytes(text: &str) -> Vec<u8> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = fraction.len();
    let whole = format!("{}{whole}", "0".repeat((4 - whole.len() % 4) % 4));
    let fraction = format!("{fraction}{}", "0".repeat((4 - scale % 4) % 4));
    let mut weight = whole.len() / 4;
    let all = whole + &fraction;
    let mut groups: Vec<u16> =
        all.as_bytes().chunks(4).map(|c| std::str::from_utf8(c).unwrap().parse().unwrap()).collect();
    let mut weight_signed = weight as i16 - 1;
    while groups.first() == Some(&0) {
        groups.remove(0);
        weight_signed -= 1;
        weight = weight.saturating_sub(1);
    }
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let mut bytes = Vec::new();
    bytes.extend((groups.len() as i16).to_be_bytes());
    bytes.extend(weight_signed.to_be_bytes());
    bytes.extend(if negative { 0x4000_u16 } else { 0 }.to_be_bytes());
    bytes.extend((scale as u16).to_be_bytes());
    groups.iter().for_each(|group| bytes.extend(group.to_be_bytes()));
    bytes
}

#[test]
fn numbers_keep_all_their_digits() {
    for text in [
        "0",
        "0.00",
        "1",
        "-1",
        "10000",
        "0.0001",
        "12345.6789",
        "-0.5",
        "100000000000000000000.000000001",
        "1.10",
    ] {
        assert_eq!(plain_text(oid::NUMERIC, &numeric_bytes(text)), text);
    }
    assert_eq!(plain_text(oid::NUMERIC, &[0, 0, 0, 0, 0xc0, 0, 0, 0]), "NaN");
    assert_eq!(plain_text(oid::NUMERIC, &[0, 0, 0, 0, 0xf0, 0, 0, 0]), "-Infinity");
}

#[test]
fn times_are_written_as_psql_does() {
    let timestamp = |micros: i64| plain_text(oid::TIMESTAMP, &micros.to_be_bytes());
    assert_eq!(timestamp(0), "2000-01-01 00:00:00");
    assert_eq!(timestamp(-1), "1999-12-31 23:59:59.999999");
    assert_eq!(timestamp(i64::MAX), "infinity");
    assert_eq!(timestamp(-211_813_488_000_000_000), "4714-11-24 00:00:00 BC");
    assert_eq!(plain_text(oid::TIMESTAMPTZ, &500_000_i64.to_be_bytes()), "2000-01-01 00:00:00.5+00");
    assert_eq!(plain_text(oid::DATE, &i32::MIN.to_be_bytes()), "-infinity");
    let timetz = [&3_600_000_001_i64.to_be_bytes()[..], &(-19_800_i32).to_be_bytes()].concat();
    assert_eq!(plain_text(oid::TIMETZ, &timetz), "01:00:00.000001+05:30");
    for (micros, days, months, expected) in [
        (0, 0, 0, "00:00:00"),
        (0, 1, 14, "1 year 2 mons 1 day"),
        (14_706_700_000, -3, -14, "-1 years -2 mons -3 days +04:05:06.7"),
        (-1, 5, 0, "5 days -00:00:00.000001"),
        (0, 3, -1, "-1 mons +3 days"),
    ] {
        assert_eq!(interval(micros, days, months), expected);
    }
}

#[test]
fn arrays_become_lists() {
    let mut bytes = Vec::new();
    for word in [2_i32, 1, 23, 2, 1, 2, 1] {
        bytes.extend(word.to_be_bytes());
    }
    for item in [Some(1_i32), None, Some(3), Some(-4)] {
        match item {
            None => bytes.extend((-1_i32).to_be_bytes()),
            Some(item) => {
                bytes.extend(4_i32.to_be_bytes());
                bytes.extend(item.to_be_bytes());
            }
        }
    }
    let list = |items: Vec<Value>| Value::List(items);
    let integer = Value::Integer;
    let expected = list(vec![list(vec![integer(1), Value::Null]), list(vec![integer(3), integer(-4)])]);
    assert_eq!(read(&Kind::Array(Box::new(Kind::Plain(oid::INT4))), &bytes), Ok(expected));
}

#[test]
fn what_is_inside_rows_and_ranges_is_quoted_as_psql_does() {
    for (text, expected) in
        [("a", "a"), ("", "\"\""), ("a b", "\"a b\""), ("a\"b\\", "\"a\"\"b\\\\\""), ("(", "\"(\"")]
    {
        let mut bytes = 1_i32.to_be_bytes().to_vec();
        bytes.extend(oid::TEXT.to_be_bytes());
        bytes.extend((text.len() as i32).to_be_bytes());
        bytes.extend(text.as_bytes());
        assert_eq!(read(&Kind::Record(Vec::new()), &bytes), Ok(Value::Text(format!("({expected})"))));
    }
    let lists = Value::List(vec![Value::Text("null".to_owned()), Value::Null, Value::Text("a\"".to_owned())]);
    assert_eq!(shown(&lists), r#"{"null",NULL,"a\""}"#);
}

proptest! {
    #[test]
    fn a_numeric_is_what_it_was_written_as(whole in "0|[1-9][0-9]{0,20}", fraction in "[0-9]{0,12}", negative: bool) {
        let mut text = if fraction.is_empty() { whole } else { format!("{whole}.{fraction}") };
        let is_zero = text.bytes().all(|byte| matches!(byte, b'0' | b'.'));
        if negative && !is_zero {
            text.insert(0, '-');
        }
        prop_assert_eq!(plain_text(oid::NUMERIC, &numeric_bytes(&text)), text);
    }

    /// Whatever a server sends is a value or an error.
    #[test]
    fn any_bytes_can_be_read(number in 0_u32..6000, bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let plain = Kind::Plain(number);
        for kind in [
            plain.clone(),
            Kind::Label,
            Kind::Array(Box::new(plain.clone())),
            Kind::Range(Box::new(plain.clone())),
            Kind::Record(vec![(number, plain.clone())]),
        ] {
            let _ = read(&kind, &bytes);
        }
    }

    /// The plausible too: a few small numbers in front.
    #[test]
    fn nearly_arrays_can_be_read(words in prop::collection::vec(-1_i32..5, 0..24)) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let _ = read(&Kind::Array(Box::new(Kind::Plain(oid::INT4))), &bytes);
        let _ = read(&Kind::Record(Vec::new()), &bytes);
        let _ = read(&Kind::Plain(oid::POLYGON), &bytes);
        let _ = read(&Kind::Plain(oid::NUMERIC), &bytes);
    }
}
