//! What may be written, what it means away from changes of the clock, and what is refused with which words.

use super::*;

#[test]
fn five_fields_begin_with_the_minute_and_six_with_the_second() {
    let after = "2026-01-01T00:00:00Z";
    check("30 4 * * *", "UTC", after, &["2026-01-01T04:30:00+00:00", "2026-01-02T04:30:00+00:00"]);
    check("15 30 4 * * *", "UTC", after, &["2026-01-01T04:30:15+00:00", "2026-01-02T04:30:15+00:00"]);
    check("* * * * *", "UTC", after, &["2026-01-01T00:01:00+00:00", "2026-01-01T00:02:00+00:00"]);
    check("* * * * * *", "UTC", after, &["2026-01-01T00:00:01+00:00", "2026-01-01T00:00:02+00:00"]);
    check("  0\t0  1 1   * ", "UTC", after, &["2027-01-01T00:00:00+00:00"]);
}

#[test]
fn each_form_of_a_field() {
    // Minutes within an hour that has them all; what is compared is the list of minutes.
    for (minute, expected) in [
        ("0", &[0][..]),
        ("59", &[59]),
        ("007", &[7]),
        ("*/20", &[0, 20, 40]),
        ("*/25", &[0, 25, 50]),
        ("*/60", &[0]),
        ("5/20", &[5, 25, 45]),
        ("50/5", &[50, 55]),
        ("59/5", &[59]),
        ("10-14", &[10, 11, 12, 13, 14]),
        ("10-20/5", &[10, 15, 20]),
        ("10-19/5", &[10, 15]),
        ("7-7", &[7]),
        ("1,3,2,3", &[1, 2, 3]),
        ("40,10-12,*/30,55/4", &[0, 10, 11, 12, 30, 40, 55, 59]),
    ] {
        let schedule = schedule(&format!("{minute} 10 * * *"), "UTC");
        let ticks = schedule.ticks(at("2026-05-05T00:00:00Z"), at("2026-05-05T23:59:59Z"));
        let minutes: Vec<_> = ticks.map(|tick| tick.get() / 60 % 60).collect();
        assert_eq!(minutes, expected, "{minute}");
    }
}

#[test]
fn each_form_of_a_day() {
    // Days of May 2026, which begins on a Friday and ends on a Sunday.
    for (days, expected) in [
        ("1,31 * ?", &[1, 31][..]),
        ("? * MON", &[4, 11, 18, 25]),
        ("* * 1-5/2", &[1, 4, 6, 8, 11, 13, 15, 18, 20, 22, 25, 27, 29]),
        ("* * 0", &[3, 10, 17, 24, 31]),
        ("* * 7", &[3, 10, 17, 24, 31]),
        ("* * sun", &[3, 10, 17, 24, 31]),
        ("* * FRI-SUN", &[1, 2, 3, 8, 9, 10, 15, 16, 17, 22, 23, 24, 29, 30, 31]),
        ("* * 5-7", &[1, 2, 3, 8, 9, 10, 15, 16, 17, 22, 23, 24, 29, 30, 31]),
        ("* * 7-1", &[3, 4, 10, 11, 17, 18, 24, 25, 31]),
        ("* * 3/2", &[1, 6, 8, 13, 15, 20, 22, 27, 29]),
        ("* * */3", &[2, 3, 6, 9, 10, 13, 16, 17, 20, 23, 24, 27, 30, 31]),
        ("10/7 * *", &[10, 17, 24, 31]),
        ("*/10 * *", &[1, 11, 21, 31]),
        ("L * *", &[31]),
        ("LW * *", &[29]),
        ("L,LW * *", &[29, 31]),
        ("LW,L,15 * *", &[15, 29, 31]),
        ("1W * *", &[1]),
        ("2W * *", &[1]),
        ("3W * *", &[4]),
        ("15w * *", &[15]),
        ("31W * *", &[29]),
        ("2W,3W,L * *", &[1, 4, 31]),
        ("* * FRI#1", &[1]),
        ("* * 5#5", &[29]),
        ("* * MON#5", &[]),
        ("* * 1#1,fri#2", &[4, 8]),
        ("* * MON-WED#2", &[11, 12, 13]),
        ("* * 5L", &[29]),
        ("* * FRI#L", &[29]),
        ("* * 7L", &[31]),
        ("* * 0#1", &[3]),
        ("* * MON-TUE#L,SUN", &[3, 10, 17, 24, 25, 26, 31]),
        // Both days given: one is enough.
        ("13 * FRI", &[1, 8, 13, 15, 22, 29]),
        ("L * MON#1", &[4, 31]),
        ("1-3 * 0-6", &(1..=31).collect::<Vec<_>>()),
        // Both given, and one begins with *: both are needed.
        ("*/2 * FRI", &[1, 15, 29]),
        ("1-15 * */2", &[2, 3, 5, 7, 9, 10, 12, 14]),
        ("*/2 * */2", &[3, 5, 7, 9, 17, 19, 21, 23, 31]),
        // Both given with a +: both are needed.
        ("15 * +FRI", &[15]),
        ("1-10 * +SAT,SUN", &[2, 3, 9, 10]),
    ] {
        let schedule = schedule(&format!("0 12 {days}"), "UTC");
        let ticks = schedule.ticks(at("2026-05-01T00:00:00Z"), at("2026-05-31T23:59:59Z"));
        let found: Vec<_> = ticks.map(|tick| tick.to_string()[8..10].parse::<i32>().unwrap()).collect();
        assert_eq!(found, expected, "{days}");
    }
}

#[test]
fn each_form_of_a_month() {
    for (month, expected) in [
        ("*", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12][..]),
        ("JAN", &[1]),
        ("dec", &[12]),
        ("Mar-May", &[3, 4, 5]),
        ("3/4", &[3, 7, 11]),
        ("*/3", &[1, 4, 7, 10]),
        ("1-6/2,12", &[1, 3, 5, 12]),
    ] {
        let schedule = schedule(&format!("0 0 1 {month} *"), "UTC");
        let ticks = schedule.ticks(at("2025-12-31T00:00:00Z"), at("2026-12-31T00:00:00Z"));
        let found: Vec<_> = ticks.map(|tick| tick.to_string()[5..7].parse::<i32>().unwrap()).collect();
        assert_eq!(found, expected, "{month}");
    }
}

#[test]
fn words_with_an_at_stand_for_fields() {
    for (word, fields) in [
        ("@yearly", "0 0 0 1 1 *"),
        ("@annually", "0 0 0 1 1 *"),
        ("@monthly", "0 0 0 1 * *"),
        ("@weekly", "0 0 0 * * 0"),
        ("@daily", "0 0 0 * * *"),
        ("@midnight", "0 0 0 * * *"),
        ("@hourly", "0 0 * * * *"),
        (" @Hourly ", "0 0 * * * *"),
    ] {
        assert_eq!(schedule(word, "").digest(), format!("{fields} UTC"), "{word}");
    }
}

#[test]
fn rare_days_are_found_and_the_calendar_has_ends() {
    check("0 0 29 2 *", "UTC", "2024-03-01T00:00:00Z", &["2028-02-29T00:00:00+00:00"]);
    // 2100 has no 29 February.
    check("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", &["2104-02-29T00:00:00+00:00"]);
    // Each 28 years, and 40 over 2100.
    check(
        "0 0 29 2 +MON",
        "UTC",
        "2024-03-01T00:00:00Z",
        &["2044-02-29T00:00:00+00:00", "2072-02-29T00:00:00+00:00", "2112-02-29T00:00:00+00:00"],
    );
    check("59 59 23 31 12 +FRI", "UTC", "2026-01-01T00:00:00Z", &["2027-12-31T23:59:59+00:00"]);

    let hourly = schedule("0 * * * *", "Europe/Berlin");
    let end = hourly.newest_by(UnixSeconds::new(i64::MAX)).unwrap();
    assert_eq!(end, at("9999-12-30T22:00:00Z"));
    assert_eq!(hourly.next_after(end), None);
    assert_eq!(hourly.next_after(UnixSeconds::new(i64::MAX)), None);
    assert_eq!(hourly.newest_by(UnixSeconds::new(i64::MIN)), None);
    let start = hourly.next_after(UnixSeconds::new(i64::MIN)).unwrap();
    assert_eq!(hourly.newest_by(UnixSeconds::new(start.get() - 1)), None);
    assert!(hourly.count(UnixSeconds::new(i64::MIN), UnixSeconds::new(i64::MAX)) > 87_000_000);
    assert_eq!(schedule("0 0 29 2 *", "UTC").newest_by(at("0004-02-28T00:00:00Z")), None);
}

#[test]
fn the_zone_may_stand_in_front() {
    let with = |cron, tz| Schedule::parse(cron, tz).map(|schedule| schedule.digest().to_owned());
    let berlin = Ok("0 0 6 * * * Europe/Berlin".to_owned());
    assert_eq!(with("CRON_TZ=Europe/Berlin 0 6 * * *", None), berlin);
    assert_eq!(with(" TZ=europe/berlin   0 6 * * *", Some("")), berlin);
    assert_eq!(with("0 6 * * *", Some("Europe/Berlin")), berlin);
    assert_eq!(with("TZ=Europe/Berlin 0 0 6 * * *", Some(" EUROPE/berlin ")), berlin);
    assert_eq!(with("TZ=Asia/Tokyo @daily", None), Ok("0 0 0 * * * Asia/Tokyo".to_owned()));
    assert_eq!(with("0 6 * * *", None), Ok("0 0 6 * * * UTC".to_owned()));
    let error = with("TZ=Asia/Tokyo 0 6 * * *", Some("Europe/Berlin")).unwrap_err().to_string();
    assert!(
        error.contains("field TZ") && error.contains("Asia/Tokyo") && error.contains("Europe/Berlin"),
        "{error}"
    );
    // An interval knows no zone, but one that does not exist is a mistake all the same.
    assert_eq!(with("TZ=Asia/Tokyo @every 90s", Some("asia/tokyo")), Ok("@every 90s".to_owned()));
    assert!(with("@every 90s", Some("Asia/Tokio")).is_err());
}

#[test]
fn every_is_a_grid_from_its_anchor() {
    let anchor = at("2026-03-29T00:00:07Z");
    let every = schedule("@every 1h30m", "Europe/Berlin").anchored(anchor);
    assert!(every.is_interval());
    let ticks: Vec<_> =
        every.ticks(anchor, at("2026-03-29T06:00:07Z")).map(|tick| tick.to_string()).collect();
    let expected =
        ["2026-03-29T01:30:07Z", "2026-03-29T03:00:07Z", "2026-03-29T04:30:07Z", "2026-03-29T06:00:07Z"];
    assert_eq!(ticks, expected);
    // Asked in between, later, or from a tick: the same grid.
    assert_eq!(every.next_after(at("2026-03-29T02:59:59Z")), Some(at(expected[1])));
    assert_eq!(every.next_after(at(expected[1])), Some(at(expected[2])));
    assert_eq!(every.newest_by(at("2026-03-29T02:59:59Z")), Some(at(expected[0])));
    assert_eq!(every.newest_by(at(expected[1])), Some(at(expected[1])));
    assert_eq!(every.count(anchor, at(expected[3])), 4);
    // Nothing is due at the anchor or before it.
    assert_eq!(every.newest_by(anchor), None);
    assert_eq!(every.next_after(UnixSeconds::new(i64::MIN)), Some(at(expected[0])));
    assert_eq!(every.count(UnixSeconds::new(i64::MIN), at(expected[0])), 1);
    assert_eq!(every.next_after(UnixSeconds::new(i64::MAX)), None);
    let newest = every.newest_by(UnixSeconds::new(i64::MAX)).unwrap();
    assert_eq!((newest.get() - anchor.get()) % 5400, 0);
    // From one of its ticks the grid goes on as it is.
    assert_eq!(every.clone().anchored(at(expected[1])).next_after(at(expected[1])), Some(at(expected[2])));
    for (text, seconds) in [
        ("1s", 1_i64),
        ("90s", 90),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1h1m1s", 3661),
        ("1500ms500ms", 2),
        ("1000000us", 1),
        ("1000000µs", 1),
        ("1000000000ns", 1),
        ("0h2s", 2),
        (".5m", 30),
        ("0.1h", 360),
        ("2562047h", 9_223_369_200),
    ] {
        assert_eq!(schedule(&format!("@every {text}"), "").digest(), format!("@every {seconds}s"), "{text}");
    }
}

#[test]
fn digests_tell_apart_what_differs_and_only_that() {
    let digest = |cron| schedule(cron, "UTC").digest().to_owned();
    assert_eq!(digest("0  9 ? jan mon-fri"), digest("0 0 9 * 1 1-5"));
    assert_eq!(digest("5/10 * * * 7"), digest("5-59/10 * * * SUN"));
    assert_eq!(digest("0 0 l * 5l"), digest("0 0 L * FRI#L"));
    assert_eq!(digest("0 *,5 * * *"), digest("0 * * * *"));
    // The same hours, but another rule where clocks change.
    assert_ne!(digest("0 *,5 * * *"), digest("0 5,* * * *"));
    assert_ne!(digest("0 * * * *"), digest("0 0-23 * * *"));
    assert_ne!(digest("0 0 1 * MON"), digest("0 0 1 * +MON"));
    assert_ne!(schedule("@daily", "UTC").digest(), schedule("@daily", "Asia/Tokyo").digest());
    // What it is today it must stay: it is compared with what other versions have written.
    assert_eq!(
        digest("*/5,1-3 0,30 */2 L,LW,15W,1-9/2 JAN-MAR MON-FRI#2,0#L,7"),
        "*/5,1-3 0,30 */2 L,LW,15W,1-9/2 1-3 1-5#2,0#L,0 UTC"
    );
    assert_eq!(digest("@every 2m"), "@every 120s");
}

#[test]
fn what_is_wrong_is_named() {
    for (cron, tz, expected) in [
        (
            "",
            "",
            r#"field Cron: "" has 0 fields; expected five, or six with the second first: [second] minute hour day-of-month month day-of-week; such as 30 4 * * * for half past four every day"#,
        ),
        ("5", "", r#"field Cron: "5" has 1 field; expected five"#),
        ("* * * *", "", r#"field Cron: "* * * *" has 4 fields; expected five"#),
        (
            "0 0 0 1 1 * 2026",
            "",
            r#"has 7 fields; expected five, or six with the second first: [second] minute hour day-of-month month day-of-week; a year cannot be given"#,
        ),
        ("a b c d e f g h", "", "has 8 fields"),
        ("TZ=UTC", "", r#"field Cron: "" has 0 fields"#),
        ("60 * * * *", "", r#"field Cron: minute "60" is not valid: expected numbers from 0 to 59"#),
        (
            "* 24 * * *",
            "",
            r#"field Cron: hour "24" is not valid: expected numbers from 0 to 23, such as 4, */2, 9-17 or 0,12; five fields are minute, hour"#,
        ),
        (
            "0 * 24 * * *",
            "",
            r#"field Cron: hour "24" is not valid: expected numbers from 0 to 23, such as 4, */2, 9-17 or 0,12"#,
        ),
        ("61 * * * * *", "", r#"field Cron: second "61" is not valid"#),
        ("* * 0 * *", "", r#"field Cron: day of month "0" is not valid: expected numbers from 1 to 31"#),
        ("* * 32 * *", "", r#"day of month "32""#),
        ("* * * 13 *", "", r#"month "13" is not valid: expected numbers from 1 to 12 or JAN to DEC"#),
        ("* * * JANUARY *", "", r#"month "JANUARY""#),
        ("* * * * 8", "", r#"day of week "8" is not valid: expected numbers from 0 to 7 or SUN to SAT"#),
        ("* * * * MOO", "", r#"day of week "MOO""#),
        ("* * * MON *", "", r#"month "MON""#),
        ("1,2,x,4 * * * *", "", r#"minute "x" is not valid"#),
        ("1,,2 * * * *", "", r#"minute "1,,2" is not valid"#),
        (", * * * *", "", r#"minute "," is not valid"#),
        ("-5 * * * *", "", r#"minute "-5" is not valid"#),
        ("5- * * * *", "", r#"minute "5-" is not valid"#),
        ("+5 * * * *", "", r#"minute "+5" is not valid"#),
        ("1-2-3 * * * *", "", r#"minute "1-2-3" is not valid"#),
        ("50-10 * * * *", "", r#"minute "50-10" is not valid: the range runs backwards, write 50-59,0-10"#),
        (
            "0 0 * * SAT-MON",
            "",
            r#"day of week "SAT-MON" is not valid: the range runs backwards, write 6,0-1"#,
        ),
        ("*/0 * * * *", "", r#"minute "*/0" is not valid: expected a step from 1 to 60 behind /"#),
        ("*/90 * * * *", "", r#"expected a step from 1 to 60 behind /, or @every with a time such as 90m"#),
        ("*/ * * * *", "", r#"minute "*/" is not valid: expected a step"#),
        ("/5 * * * *", "", r#"minute "/5" is not valid"#),
        ("*/5/5 * * * *", "", r#"minute "*/5/5" is not valid"#),
        ("** * * * *", "", r#"minute "**" is not valid"#),
        ("? * * * *", "", r#"minute "?" is not valid"#),
        ("0 0 ?/2 * *", "", r#"day of month "?/2" is not valid"#),
        ("0 0 1,? * *", "", r#"day of month "?" is not valid"#),
        ("0 L * * *", "", r#"hour "L" is not valid"#),
        ("0 0 L-3 * *", "", r#"day of month "L-3" is not valid"#),
        ("0 0 1-5W * *", "", r#"day of month "1-5W" is not valid"#),
        ("0 0 W * *", "", r#"day of month "W" is not valid"#),
        ("0 0 * * L", "", r#"day of week "L" is not valid: expected a day before L, such as 5L"#),
        (
            "0 0 * * MON#6",
            "",
            r#"day of week "MON#6" is not valid: expected a number from 1 to 5 or L behind #"#,
        ),
        ("0 0 * * #2", "", r##"day of week "#2" is not valid"##),
        ("0 0 * * *#2", "", r##"day of week "*#2" is not valid"##),
        ("0 0 5#2 * *", "", r##"day of month "5#2" is not valid"##),
        ("0 0 * * +", "", r#"day of week "" is not valid"#),
        ("0 0 +1 * *", "", r#"day of month "+1" is not valid"#),
        ("٣ * * * *", "", "minute \"٣\" is not valid"),
        ("@fortnightly", "", r#"field Cron: "@fortnightly" is not known: expected @yearly"#),
        ("@", "", r#""@" is not known"#),
        ("@daily 5", "", "and nothing behind it"),
        ("@reboot", "", "register a thread"),
        ("@every", "", r#"field Cron: @every "" is not valid: expected a time in whole seconds"#),
        ("@every 5", "", "expected a unit behind the number, such as 90s"),
        ("@every 1d", "", "expected hours for days, such as 24h"),
        ("@every 500ms", "", r#"@every "500ms" is not valid: expected a time in whole seconds, one or more"#),
        ("@every 1500ms", "", "expected a time in whole seconds"),
        ("@every 0s", "", "expected a time in whole seconds"),
        ("@every -5s", "", "expected a time in whole seconds"),
        ("@every 1h 30m", "", "expected a time in whole seconds"),
        ("@every 1.2.3h", "", "expected a time in whole seconds"),
        ("@every .s", "", "expected a time in whole seconds"),
        ("@every 1.00000000001s", "", "expected a time in whole seconds"),
        ("@every 2562048h", "", "expected at most 2562047h"),
        ("@every 99999999999999999999999999999999999999999h", "", "expected a time in whole seconds"),
        ("0 0 31 2 *", "", r#"field Cron: "0 0 0 31 2 *" never fires: no month of 2 has a day 31"#),
        ("0 0 30 2 *", "", "never fires"),
        ("0 0 31 4,6,9,11 *", "", "never fires: no month of 4,6,9,11 has a day 31"),
        ("0 0 31 2 +MON", "", "never fires"),
        ("0 0 8-31 * +MON#1", "", "never fires: no month of * has a day 8-31 that is also a day of week 1#1"),
        (
            "* * * * *",
            "Mars/Base",
            r#"field TZ: "Mars/Base" is not a time zone: expected a name of the IANA database such as Europe/Berlin"#,
        ),
        ("* * * * *", "Berlin", "; the nearest one is Europe/Berlin"),
        ("* * * * *", "Europe/Berln", "; the nearest one is Europe/Berlin"),
        ("* * * * *", "America/New York", "; the nearest one is America/New_York"),
        ("* * * * *", "Local", "; workers may differ in their own local time"),
        ("* * * * *", "+02:00", "; a zone of a fixed offset is Etc/GMT-2"),
        ("* * * * *", "Factory", "is not a time zone"),
        ("* * * * *", "Etc/Unknown", "is not a time zone"),
        ("TZ=Moon 0 0 * * *", "", r#"field Cron: "Moon" is not a time zone"#),
        ("TZ= 0 0 * * *", "", r#"field Cron: "" is not a time zone"#),
        ("TZ=UTC TZ=UTC 0 0 * * *", "", r#"second "TZ=UTC" is not valid"#),
    ] {
        let error = Schedule::parse(cron, Some(tz)).map(|schedule| schedule.digest().to_owned()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected), "{cron:?}, {tz:?}: {text}");
        assert!(!text.contains('\n') && text.len() < 400, "{text}");
    }
}

#[test]
fn long_and_strange_texts_are_shortened_in_errors() {
    let error = Schedule::parse(&"9".repeat(5000), None).unwrap_err().to_string();
    assert_eq!(error, "field Cron: it has 5000 bytes, at most 1000 are read");
    let error = Schedule::parse(&format!("{} * * * *", "ß".repeat(400)), None).unwrap_err().to_string();
    assert!(error.contains(&format!("{}…", "ß".repeat(60))) && error.len() < 400, "{error}");
    let error = Schedule::parse("\u{1b}[31m * * * *", None).unwrap_err().to_string();
    assert!(!error.contains('\u{1b}'), "{error}");
    let error = Schedule::parse("* * * * *", Some(&"x".repeat(100_000))).unwrap_err().to_string();
    assert!(error.len() < 300, "{error}");
}

#[test]
fn a_list_of_every_second_and_minute_is_read() {
    let all = |to: u32| (0..to).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let cron = format!("{} {} {} * * *", all(60), all(60), all(24));
    check(&cron, "UTC", "2026-01-01T00:00:00Z", &["2026-01-01T00:00:01+00:00", "2026-01-01T00:00:02+00:00"]);
}

#[test]
fn instants_are_read_and_shown() {
    for (text, seconds) in [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-03-29T03:00:00+02:00", 1_774_746_000),
        ("2026-03-29T01:00:00.999Z", 1_774_746_000),
        ("1969-12-31T23:59:59.5Z", -1),
    ] {
        assert_eq!(at(text).get(), seconds, "{text}");
    }
    assert_eq!(UnixSeconds::new(1_774_746_000).to_string(), "2026-03-29T01:00:00Z");
    assert_eq!(UnixSeconds::of_millis(-1), UnixSeconds::new(-1));
    assert_eq!(UnixSeconds::of_millis(1999).as_millis(), 1000);
    assert_eq!(UnixSeconds::new(i64::MAX).as_millis(), i64::MAX);
    assert_eq!(UnixSeconds::new(i64::MAX).to_string(), format!("unix {}", i64::MAX));
    assert!("tomorrow".parse::<UnixSeconds>().unwrap_err().to_string().contains("tomorrow"));
}
