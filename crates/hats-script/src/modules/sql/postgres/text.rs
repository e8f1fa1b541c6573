//! Values of Postgres in its binary form, as the texts that Postgres itself makes of them.
//!
//! The driver asks for all results in binary form. What is an integer, a number, a boolean, text or bytes becomes that;
//! everything else becomes the text that `psql` would show, digit for digit.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use sqlx::TypeInfo;
use sqlx::postgres::{PgTypeInfo, PgTypeKind};

use crate::modules::sql::calendar::{self, DAY_MICROS, POSTGRES_EPOCH_DAYS};
use crate::modules::sql::value::{Value, widened};

/// Arrays and rows in one another go no deeper.
const DEPTH_MAX: usize = 32;

/// Bytes that are not what their type should look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Numbers of the types that come with every server.
pub(super) mod oid {
    pub(in super::super) const BOOL: u32 = 16;
    pub(in super::super) const BYTEA: u32 = 17;
    pub(in super::super) const CHAR: u32 = 18;
    pub(in super::super) const NAME: u32 = 19;
    pub(in super::super) const INT8: u32 = 20;
    pub(in super::super) const INT2: u32 = 21;
    pub(in super::super) const INT4: u32 = 23;
    pub(in super::super) const TEXT: u32 = 25;
    pub(in super::super) const OID: u32 = 26;
    pub(super) const TID: u32 = 27;
    pub(super) const XID: u32 = 28;
    pub(super) const CID: u32 = 29;
    pub(super) const JSON: u32 = 114;
    pub(super) const XML: u32 = 142;
    pub(super) const POINT: u32 = 600;
    pub(super) const LSEG: u32 = 601;
    pub(super) const PATH: u32 = 602;
    pub(super) const BOX: u32 = 603;
    pub(super) const POLYGON: u32 = 604;
    pub(super) const LINE: u32 = 628;
    pub(super) const CIDR: u32 = 650;
    pub(in super::super) const FLOAT4: u32 = 700;
    pub(in super::super) const FLOAT8: u32 = 701;
    pub(in super::super) const UNKNOWN: u32 = 705;
    pub(super) const CIRCLE: u32 = 718;
    pub(super) const MACADDR8: u32 = 774;
    pub(super) const MONEY: u32 = 790;
    pub(super) const MACADDR: u32 = 829;
    pub(super) const INET: u32 = 869;
    pub(in super::super) const BPCHAR: u32 = 1042;
    pub(in super::super) const VARCHAR: u32 = 1043;
    pub(super) const DATE: u32 = 1082;
    pub(super) const TIME: u32 = 1083;
    pub(super) const TIMESTAMP: u32 = 1114;
    pub(super) const TIMESTAMPTZ: u32 = 1184;
    pub(super) const INTERVAL: u32 = 1186;
    pub(super) const TIMETZ: u32 = 1266;
    pub(super) const BIT: u32 = 1560;
    pub(super) const VARBIT: u32 = 1562;
    pub(super) const NUMERIC: u32 = 1700;
    pub(super) const UUID: u32 = 2950;
    pub(super) const PG_LSN: u32 = 3220;
    pub(super) const JSONB: u32 = 3802;
    pub(super) const JSONPATH: u32 = 4072;
    pub(super) const XID8: u32 = 5069;
    pub(super) const RECORD: u32 = 2249;
    pub(super) const VOID: u32 = 2278;
    pub(super) const INT2VECTOR: u32 = 22;
    pub(super) const OIDVECTOR: u32 = 30;
}

/// How a value of a type is read.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// A type that comes with every server.
    Plain(u32),
    /// The labels of an enum, and types that are text in all but name.
    Label,
    Array(Box<Kind>),
    Range(Box<Kind>),
    /// A row, whose fields say their types themselves: only those that come with every server can be read.
    Record(Vec<(u32, Kind)>),
}

/// How values of a type are read; None for a type that is not known. Found out before a statement runs: to find out
/// afterwards that its result cannot be read would be too late.
pub(super) fn kind_of(info: &PgTypeInfo) -> Option<Kind> {
    kind_within(info, 0)
}

fn kind_within(info: &PgTypeInfo, depth: usize) -> Option<Kind> {
    if depth > DEPTH_MAX {
        return None;
    }
    if let Some(number) = info.oid().map(|oid| oid.0)
        && is_plain(number)
    {
        return Some(Kind::Plain(number));
    }
    if info.oid().is_some_and(|oid| oid.0 == oid::RECORD) {
        return Some(Kind::Record(Vec::new()));
    }
    match info.kind() {
        PgTypeKind::Array(item) => kind_within(item, depth + 1).map(|item| Kind::Array(Box::new(item))),
        PgTypeKind::Range(bound) => kind_within(bound, depth + 1).map(|bound| Kind::Range(Box::new(bound))),
        PgTypeKind::Domain(base) => kind_within(base, depth + 1),
        PgTypeKind::Enum(_) => Some(Kind::Label),
        PgTypeKind::Composite(fields) => {
            let fields = fields.iter().map(|(_, info)| {
                let number = info.oid().map_or(0, |oid| oid.0);
                kind_within(info, depth + 1).map(|kind| (number, kind))
            });
            fields.collect::<Option<_>>().map(Kind::Record)
        }
        PgTypeKind::Simple if info.name().eq_ignore_ascii_case("citext") => Some(Kind::Label),
        PgTypeKind::Simple | PgTypeKind::Pseudo => None,
    }
}

fn is_plain(number: u32) -> bool {
    use oid::*;
    matches!(
        number,
        BOOL | BYTEA
            | CHAR
            | NAME
            | INT8
            | INT2
            | INT4
            | TEXT
            | OID
            | TID
            | XID
            | CID
            | JSON
            | XML
            | POINT
            | LSEG
            | PATH
            | BOX
            | POLYGON
            | LINE
            | CIDR
            | FLOAT4
            | FLOAT8
            | UNKNOWN
            | CIRCLE
            | MACADDR8
            | MONEY
            | MACADDR
            | INET
            | BPCHAR
            | VARCHAR
            | DATE
            | TIME
            | TIMESTAMP
            | TIMESTAMPTZ
            | INTERVAL
            | TIMETZ
            | BIT
            | VARBIT
            | NUMERIC
            | UUID
            | PG_LSN
            | JSONB
            | JSONPATH
            | XID8
            | VOID
            | INT2VECTOR
            | OIDVECTOR
    )
}

/// Reads a value that is not null.
pub(super) fn read(kind: &Kind, bytes: &[u8]) -> Result<Value, Malformed> {
    let mut reader = Reader(bytes);
    let value = match kind {
        Kind::Plain(number) => plain(*number, &mut reader)?,
        Kind::Label => Value::text(reader.rest()),
        Kind::Array(item) => array(item, &mut reader)?,
        Kind::Range(bound) => Value::Text(range(bound, &mut reader)?),
        Kind::Record(fields) => Value::Text(record(fields, &mut reader)?),
    };
    if reader.0.is_empty() { Ok(value) } else { Err(Malformed) }
}

fn plain(number: u32, reader: &mut Reader<'_>) -> Result<Value, Malformed> {
    let text = |text: String| Ok(Value::Text(text));
    match number {
        oid::BOOL => Ok(Value::Bool(reader.u8()? != 0)),
        oid::BYTEA => Ok(Value::Bytes(reader.rest().to_vec())),
        oid::INT2 => Ok(Value::Integer(reader.i16()?.into())),
        oid::INT4 => Ok(Value::Integer(reader.i32()?.into())),
        oid::INT8 => Ok(Value::Integer(reader.i64()?)),
        oid::OID | oid::XID | oid::CID => Ok(Value::Unsigned(reader.u32()?.into())),
        oid::XID8 => Ok(Value::Unsigned(reader.u64()?)),
        oid::FLOAT4 => Ok(Value::Float(widened(f32::from_bits(reader.u32()?)))),
        oid::FLOAT8 => Ok(Value::Float(reader.f64()?)),
        oid::CHAR
        | oid::NAME
        | oid::TEXT
        | oid::JSON
        | oid::XML
        | oid::UNKNOWN
        | oid::BPCHAR
        | oid::VARCHAR => Ok(Value::text(reader.rest())),
        oid::JSONB | oid::JSONPATH => {
            // The version of the form, of which there is one.
            if reader.u8()? != 1 {
                return Err(Malformed);
            }
            Ok(Value::text(reader.rest()))
        }
        oid::VOID => text(String::new()),
        oid::NUMERIC => text(numeric(reader)?),
        oid::DATE => text(date(reader.i32()?)),
        oid::TIME => {
            let mut time = String::new();
            calendar::write_time(&mut time, reader.i64()?);
            text(time)
        }
        oid::TIMETZ => {
            let mut time = String::new();
            calendar::write_time(&mut time, reader.i64()?);
            write_zone(&mut time, reader.i32()?);
            text(time)
        }
        oid::TIMESTAMP => text(timestamp(reader.i64()?, "")),
        // The session's time zone is UTC.
        oid::TIMESTAMPTZ => text(timestamp(reader.i64()?, "+00")),
        oid::INTERVAL => text(interval(reader.i64()?, reader.i32()?, reader.i32()?)),
        oid::UUID => {
            let number = u128::from_be_bytes(reader.array()?);
            let digits = format!("{number:032x}");
            let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
            text(parts.join("-"))
        }
        oid::INET | oid::CIDR => text(network(reader)?),
        oid::MACADDR => text(hexadecimal(&reader.array::<6>()?)),
        oid::MACADDR8 => text(hexadecimal(&reader.array::<8>()?)),
        oid::BIT | oid::VARBIT => {
            let length = usize::try_from(reader.i32()?).map_err(|_| Malformed)?;
            let bytes = reader.rest();
            if bytes.len() != length.div_ceil(8) {
                return Err(Malformed);
            }
            let bit = |n: usize| if bytes[n / 8] & (0x80 >> (n % 8)) == 0 { '0' } else { '1' };
            text((0..length).map(bit).collect())
        }
        oid::MONEY => text(money(reader.i64()?)),
        oid::TID => text(format!("({},{})", reader.u32()?, reader.u16()?)),
        oid::PG_LSN => {
            let place = reader.u64()?;
            text(format!("{:X}/{:X}", place >> 32, place & 0xffff_ffff))
        }
        oid::POINT => text(point(reader)?),
        oid::LSEG => text(format!("[{},{}]", point(reader)?, point(reader)?)),
        oid::BOX => text(format!("{},{}", point(reader)?, point(reader)?)),
        oid::LINE => text(format!("{{{},{},{}}}", reader.number()?, reader.number()?, reader.number()?)),
        oid::CIRCLE => text(format!("<{},{}>", point(reader)?, reader.number()?)),
        oid::PATH => {
            let is_closed = reader.u8()? != 0;
            let points = points(reader)?;
            text(if is_closed { format!("({points})") } else { format!("[{points}]") })
        }
        oid::POLYGON => text(format!("({})", points(reader)?)),
        // Arrays of the catalogues.
        oid::INT2VECTOR => array(&Kind::Plain(oid::INT2), reader),
        oid::OIDVECTOR => array(&Kind::Plain(oid::OID), reader),
        _ => Err(Malformed),
    }
}

/// Digits in groups of four, the place of the first group, the sign, and how many digits are shown behind the point.
fn numeric(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let groups = usize::try_from(reader.i16()?).map_err(|_| Malformed)?;
    let weight = i32::from(reader.i16()?);
    let sign = reader.u16()?;
    let scale = usize::from(reader.u16()?);
    let mut text = match sign {
        0x0000 => String::new(),
        0x4000 => "-".to_owned(),
        0xc000 => return Ok("NaN".to_owned()),
        0xd000 => return Ok("Infinity".to_owned()),
        0xf000 => return Ok("-Infinity".to_owned()),
        _ => return Err(Malformed),
    };
    let digits = (0..groups).map(|_| reader.u16()).collect::<Result<Vec<_>, _>>()?;
    if digits.iter().any(|group| *group > 9999) {
        return Err(Malformed);
    }
    let group = |place: i32| {
        let index = usize::try_from(weight - place).ok();
        index.and_then(|index| digits.get(index)).copied().unwrap_or(0)
    };
    if weight < 0 {
        text.push('0');
    } else {
        let _ = write!(text, "{}", group(weight));
        for place in (0..weight).rev() {
            let _ = write!(text, "{:04}", group(place));
        }
    }
    if scale > 0 {
        text.push('.');
        let mut fraction = String::with_capacity(scale + 4);
        let mut place = -1;
        while fraction.len() < scale {
            let _ = write!(fraction, "{:04}", group(place));
            place -= 1;
        }
        text.push_str(&fraction[..scale]);
    }
    Ok(text)
}

fn date(days: i32) -> String {
    match days {
        i32::MAX => "infinity".to_owned(),
        i32::MIN => "-infinity".to_owned(),
        days => {
            let mut text = String::new();
            let suffix = calendar::write_date(&mut text, i64::from(days) + POSTGRES_EPOCH_DAYS);
            text + suffix
        }
    }
}

fn timestamp(micros: i64, zone: &str) -> String {
    match micros {
        i64::MAX => "infinity".to_owned(),
        i64::MIN => "-infinity".to_owned(),
        micros => {
            let mut text = String::new();
            let days = micros.div_euclid(DAY_MICROS) + POSTGRES_EPOCH_DAYS;
            let suffix = calendar::write_date(&mut text, days);
            text.push(' ');
            calendar::write_time(&mut text, micros.rem_euclid(DAY_MICROS));
            text + zone + suffix
        }
    }
}

/// A zone as seconds west of Greenwich.
fn write_zone(text: &mut String, west: i32) {
    let sign = if west > 0 { '-' } else { '+' };
    let seconds = west.unsigned_abs();
    let _ = write!(text, "{sign}{:02}", seconds / 3600);
    if !seconds.is_multiple_of(3600) {
        let _ = write!(text, ":{:02}", seconds / 60 % 60);
    }
    if !seconds.is_multiple_of(60) {
        let _ = write!(text, ":{:02}", seconds % 60);
    }
}

/// In Postgres' own style: `1 year 2 mons -3 days +04:05:06.7`.
fn interval(micros: i64, days: i32, months: i32) -> String {
    match (micros, days, months) {
        (i64::MAX, i32::MAX, i32::MAX) => return "infinity".to_owned(),
        (i64::MIN, i32::MIN, i32::MIN) => return "-infinity".to_owned(),
        _ => {}
    }
    let mut text = String::new();
    let mut negative_before = false;
    let mut part = |amount: i32, unit: &str| {
        if amount == 0 {
            return;
        }
        let blank = if text.is_empty() { "" } else { " " };
        // A sign is shown also if it is plus, right behind a minus.
        let plus = if negative_before && amount > 0 { "+" } else { "" };
        let s = if amount == 1 { "" } else { "s" };
        let _ = write!(text, "{blank}{plus}{amount} {unit}{s}");
        negative_before = amount < 0;
    };
    part(months / 12, "year");
    part(months % 12, "mon");
    part(days, "day");
    if micros != 0 || text.is_empty() {
        let sign = if micros < 0 {
            "-"
        } else if negative_before {
            "+"
        } else {
            ""
        };
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(sign);
        let micros = micros.unsigned_abs();
        let seconds = micros / 1_000_000;
        let _ = write!(text, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        calendar::write_fraction(&mut text, i64::try_from(micros % 1_000_000).unwrap_or(0));
    }
    text
}

/// The family, the bits of the net, whether it is a `cidr`, and the address.
fn network(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let (family, bits, is_cidr, length) = (reader.u8()?, reader.u8()?, reader.u8()? != 0, reader.u8()?);
    let (address, all) = match (family, length) {
        (2, 4) => (Ipv4Addr::from(reader.array::<4>()?).to_string(), 32),
        (3, 16) => (Ipv6Addr::from(reader.array::<16>()?).to_string(), 128),
        _ => return Err(Malformed),
    };
    Ok(if is_cidr || bits != all { format!("{address}/{bits}") } else { address })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// In hundredths: what its unit is only the server knows.
fn money(hundredths: i64) -> String {
    let sign = if hundredths < 0 { "-" } else { "" };
    let amount = hundredths.unsigned_abs();
    format!("{sign}{}.{:02}", amount / 100, amount % 100)
}

fn point(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    Ok(format!("({},{})", reader.number()?, reader.number()?))
}

fn points(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let number = reader.i32()?;
    let points = (0..number).map(|_| point(reader)).collect::<Result<Vec<_>, _>>()?;
    Ok(points.join(","))
}

/// Dimensions, whether there are nulls, the type of the items; then length and first number of each dimension; then
/// the items.
fn array(kind: &Kind, reader: &mut Reader<'_>) -> Result<Value, Malformed> {
    let dimensions = usize::try_from(reader.i32()?).map_err(|_| Malformed)?;
    let (_has_nulls, _item_type) = (reader.i32()?, reader.u32()?);
    if dimensions > DEPTH_MAX {
        return Err(Malformed);
    }
    let mut lengths = Vec::new();
    for _ in 0..dimensions {
        // An empty array has no dimensions. So each item takes some bytes, and their number is no more than there are.
        let length = usize::try_from(reader.i32()?).ok().filter(|length| *length > 0);
        lengths.push(length.ok_or(Malformed)?);
        reader.i32()?;
    }
    if lengths.is_empty() {
        return Ok(Value::List(Vec::new()));
    }
    items(kind, &lengths, reader)
}

fn items(kind: &Kind, lengths: &[usize], reader: &mut Reader<'_>) -> Result<Value, Malformed> {
    let Some((length, inner)) = lengths.split_first() else { return nullable(kind, reader) };
    // Room only for what there can be: the length is not to be believed.
    let mut list = Vec::with_capacity((*length).min(reader.0.len() / 4));
    for _ in 0..*length {
        list.push(items(kind, inner, reader)?);
    }
    Ok(Value::List(list))
}

/// A length and the bytes of a value, or -1 for null.
fn nullable(kind: &Kind, reader: &mut Reader<'_>) -> Result<Value, Malformed> {
    match reader.i32()? {
        -1 => Ok(Value::Null),
        length => read(kind, reader.bytes(usize::try_from(length).map_err(|_| Malformed)?)?),
    }
}

fn range(kind: &Kind, reader: &mut Reader<'_>) -> Result<String, Malformed> {
    const EMPTY: u8 = 0x01;
    const LOWER_INCLUSIVE: u8 = 0x02;
    const UPPER_INCLUSIVE: u8 = 0x04;
    const NO_LOWER: u8 = 0x08;
    const NO_UPPER: u8 = 0x10;
    let flags = reader.u8()?;
    if flags & EMPTY != 0 {
        return Ok("empty".to_owned());
    }
    let mut bound = |absent: u8| {
        if flags & absent != 0 {
            return Ok(String::new());
        }
        let text = shown(&nullable(kind, reader)?);
        Ok(if needs_quotes(&text, false) { quoted(&text) } else { text })
    };
    let (lower, upper) = (bound(NO_LOWER)?, bound(NO_UPPER)?);
    let open = if flags & LOWER_INCLUSIVE != 0 { '[' } else { '(' };
    let close = if flags & UPPER_INCLUSIVE != 0 { ']' } else { ')' };
    Ok(format!("{open}{lower},{upper}{close}"))
}

/// How many fields, then the type, the length and the bytes of each.
fn record(known: &[(u32, Kind)], reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let number = usize::try_from(reader.i32()?).map_err(|_| Malformed)?;
    let mut text = String::from("(");
    for n in 0..number {
        if n > 0 {
            text.push(',');
        }
        let field = reader.u32()?;
        let kind = match known.get(n) {
            Some((_, kind)) => kind.clone(),
            None if is_plain(field) => Kind::Plain(field),
            None => return Err(Malformed),
        };
        let value = nullable(&kind, reader)?;
        if value == Value::Null {
            continue;
        }
        let field = shown(&value);
        text.push_str(&if needs_quotes(&field, false) { quoted(&field) } else { field });
    }
    text.push(')');
    Ok(text)
}

/// A value as Postgres shows it inside an array, a range or a row.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(flag) => if *flag { "t" } else { "f" }.to_owned(),
        Value::Integer(integer) => integer.to_string(),
        Value::Unsigned(integer) => integer.to_string(),
        Value::Float(number) => float(*number),
        Value::Text(text) => text.clone(),
        Value::Bytes(bytes) => bytes.iter().fold("\\x".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }),
        Value::List(items) => {
            let items = items.iter().map(|item| match item {
                Value::Null => "NULL".to_owned(),
                Value::List(_) => shown(item),
                item => {
                    let text = shown(item);
                    if needs_quotes(&text, true) { quoted_in_array(&text) } else { text }
                }
            });
            format!("{{{}}}", items.collect::<Vec<_>>().join(","))
        }
    }
}

fn needs_quotes(text: &str, in_array: bool) -> bool {
    text.is_empty()
        || text.contains(|c: char| c.is_ascii_whitespace() || c == '\x0b' || matches!(c, '"' | '\\' | ','))
        || if in_array {
            text.contains(['{', '}']) || text.eq_ignore_ascii_case("null")
        } else {
            text.contains(['(', ')', '[', ']'])
        }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\"\""))
}

fn quoted_in_array(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A number as Postgres writes it: with an exponent as `C` does, which has a sign and two digits at least.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..15).contains(&exponent) {
        return format!("{number}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, number: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(number).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N)?.try_into().map_err(|_| Malformed)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    fn f64(&mut self) -> Result<f64, Malformed> {
        self.array().map(f64::from_be_bytes)
    }

    /// A floating point number, as it is shown.
    fn number(&mut self) -> Result<String, Malformed> {
        self.f64().map(float)
    }
}

#[cfg(test)]
mod tests;
