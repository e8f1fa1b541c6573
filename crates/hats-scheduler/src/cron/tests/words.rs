//! Sentences, and the note about 2020.

use super::*;

#[test]
fn sentences() {
    for (cron, expected) in [
        ("* * * * *", "every minute"),
        ("* * * * * *", "every second"),
        ("*/5 * * * *", "every 5 minutes"),
        ("*/10 * * * * *", "every 10 seconds"),
        ("*/7 * * * *", "at minutes 0, 7, 14, 21, 28, 35, 42, 49 and 56 of every hour"),
        ("0 * * * *", "at minute 0 of every hour"),
        ("5,35 * * * *", "at minutes 5 and 35 of every hour"),
        ("0 */2 * * *", "at minute 0 of every 2nd hour"),
        ("0 0 * * *", "at 00:00"),
        ("30 4 * * *", "at 04:30"),
        ("0,30 4,16 * * *", "at 04:00, 04:30, 16:00 and 16:30"),
        ("5 30 4 * * *", "at 04:30:05"),
        ("0 9-17 * * *", "at minute 0 of hours 9 to 17"),
        ("*/15 9-17 * * *", "every 15 minutes from 09:00 through 17:59"),
        ("* 9,12 * * *", "every minute from 09:00 through 09:59 and from 12:00 through 12:59"),
        ("*/15 */6 * * *", "every 15 minutes in every 6th hour"),
        ("* 0 * * *", "every minute from 00:00 through 00:59"),
        ("* 0 4 * * *", "every second of minute 0 of hour 4"),
        ("*/20 */5 * * * *", "every 20 seconds of every 5th minute"),
        ("7 * * * * *", "at second 7 of every minute"),
        ("7 0 * * * *", "at second 7 of minute 0 of every hour"),
        ("7,9 */30 4 * * *", "at 04:00:07, 04:00:09, 04:30:07 and 04:30:09"),
        ("0 12 * * MON", "at 12:00 on Monday"),
        ("0 12 * * 1-5", "at 12:00 on Monday through Friday"),
        ("0 12 * * SAT,SUN", "at 12:00 on Sunday and Saturday"),
        ("0 12 * * FRI-SUN", "at 12:00 on Friday through Sunday"),
        ("0 12 * * */2", "at 12:00 on Sunday, Tuesday, Thursday and Saturday"),
        ("0 12 1 * *", "at 12:00 on day 1 of the month"),
        ("0 12 1,15 * *", "at 12:00 on days 1 and 15 of the month"),
        ("0 12 1-7,31 * *", "at 12:00 on days 1 to 7 and 31 of the month"),
        ("0 12 */2 * *", "at 12:00 on every 2nd day of the month from the 1st"),
        ("0 12 */2 * MON", "at 12:00 on every 2nd day of the month from the 1st if it is Monday"),
        ("0 12 L * *", "at 12:00 on the last day of the month"),
        ("0 12 LW * *", "at 12:00 on the last day from Monday to Friday of the month"),
        (
            "0 12 15W,L * *",
            "at 12:00 on the day from Monday to Friday nearest to day 15 of the month and the last day of the month",
        ),
        ("0 12 * * TUE#3", "at 12:00 on the 3rd Tuesday of the month"),
        ("0 12 * * 5L", "at 12:00 on the last Friday of the month"),
        ("0 12 * * MON-TUE#1", "at 12:00 on the 1st Monday of the month and the 1st Tuesday of the month"),
        ("0 12 13 * FRI", "at 12:00 on day 13 of the month, and also on Friday"),
        ("0 12 13 * +FRI", "at 12:00 on day 13 of the month if it is Friday"),
        ("0 12 * JAN *", "at 12:00 in January"),
        ("0 12 * 6-8 *", "at 12:00 in June through August"),
        ("0 12 1 */3 *", "at 12:00 on day 1 of the month in January, April, July and October"),
        ("@yearly", "at 00:00 on day 1 of the month in January"),
        ("@weekly", "at 00:00 on Sunday"),
    ] {
        assert_eq!(schedule(cron, "UTC").describe(), format!("{expected}, UTC time"), "{cron}");
    }
    assert_eq!(schedule("30 4 * * *", "europe/berlin").describe(), "at 04:30, Europe/Berlin time");
    for (cron, expected) in [
        ("@every 1s", "every second"),
        ("@every 90s", "every 90 seconds"),
        ("@every 1m", "every minute"),
        ("@every 90m", "every 90 minutes"),
        ("@every 1h", "every hour"),
        ("@every 48h", "every 48 hours"),
    ] {
        assert_eq!(schedule(cron, "UTC").describe(), expected);
    }
}

#[test]
fn five_fields_have_a_note_about_2020() {
    let note = |cron| schedule(cron, "UTC").note_for_2020();
    let expected = "workers of 2020 read these five fields as second, minute, hour, day of month and month, in their \
                    own local time: at second 30 of minute 4 of every hour; to keep that, write the six fields \
                    `30 4 * * * *` and set TZ";
    assert_eq!(note("30 4 * * *").as_deref(), Some(expected));
    assert!(note("* * * * *").is_some_and(|note| note.contains(": every second; ")));
    assert!(note("0 0 1 1 *").is_some_and(|note| note.contains(": at 01:00 on day 1 of the month; ")));
    // A zone in front it knew.
    let expected = "workers of 2020 read these five fields as second, minute, hour, day of month and month: \
                    every second; to keep that, write the six fields `* * * * * *`";
    assert_eq!(note("TZ=UTC * * * * *").as_deref(), Some(expected));
    // What 2020 could not have read, six fields and words meant nothing else then.
    for cron in
        ["0 0 * 0-6/2 1-5", "0 0 * * 0", "0 0 * * MON", "0 0 * JAN *", "30 4 * * * *", "@daily", "@every 5s"]
    {
        let schedule = Schedule::parse(cron, None);
        assert_eq!(schedule.ok().and_then(|schedule| schedule.note_for_2020()), None, "{cron}");
    }
}
