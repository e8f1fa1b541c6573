//! What other schedulers document or test, as facts: a schedule, an instant, and the next one after it. Where we answer
//! otherwise the line says so, and why.

use super::*;

/// What they answer is what we answer.
const SAME: Option<(&str, &str)> = None;

const ROBFIG: &str = "robfig/cron";
const CRONOS: &str = "Cronos";
const CRONIE: &str = "cronie";

const YORK: &str = "America/New_York";
const AMMAN: &str = "Asia/Amman";
const HOWE: &str = "Australia/Lord_Howe";
const SANTIAGO: &str = "America/Santiago";
const PAULO: &str = "America/Sao_Paulo";

/// A nightly job runs once a night: a local time that is repeated is due the first time only.
const ONCE: &str = "a local time is due once";
/// What a clock leaps over is not lost, if it names local times.
const CAUGHT_UP: &str = "local times in a gap are due at its end";
/// Real time leaps over nothing, so there is nothing to catch up.
const REAL_TIME: &str = "an hour that begins with * follows real time";
/// As in crontab(5): a day field that begins with a star does not widen the other one.
const STARRED_DAY: &str = "*/n begins with a star, so both day fields have to match";

type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    Option<(&'static str, &'static str)>,
);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // Whose, schedule, zone, after, their next; ours and why where it is another.
    (ROBFIG, "0 0/15 * * * *", "UTC", "2012-07-09T14:45:00Z", "2012-07-09T15:00:00+00:00", SAME),
    (ROBFIG, "0 0/15 * * * *", "UTC", "2012-07-09T14:59:59Z", "2012-07-09T15:00:00+00:00", SAME),
    (ROBFIG, "0 20-35/15 * * * *", "UTC", "2012-07-09T15:45:00Z", "2012-07-09T16:20:00+00:00", SAME),
    (ROBFIG, "0 */15 * * * *", "UTC", "2012-07-09T23:46:00Z", "2012-07-10T00:00:00+00:00", SAME),
    (ROBFIG, "0 20-35/15 * * * *", "UTC", "2012-07-09T23:45:00Z", "2012-07-10T00:20:00+00:00", SAME),
    (ROBFIG, "15/35 20-35/15 * * * *", "UTC", "2012-07-09T23:35:51Z", "2012-07-10T00:20:15+00:00", SAME),
    (ROBFIG, "15/35 20-35/15 1/2 * * *", "UTC", "2012-07-09T23:35:51Z", "2012-07-10T01:20:15+00:00", SAME),
    (ROBFIG, "15/35 20-35/15 10-12 * * *", "UTC", "2012-07-09T23:35:51Z", "2012-07-10T10:20:15+00:00", SAME),
    (ROBFIG, "15/35 20-35/15 1/2 */2 * *", "UTC", "2012-07-09T23:35:51Z", "2012-07-11T01:20:15+00:00", SAME),
    (ROBFIG, "15/35 20-35/15 * 9-20 Jul *", "UTC", "2012-07-09T23:35:51Z", "2012-07-10T00:20:15+00:00", SAME),
    (ROBFIG, "0 0 0 9 Apr-Oct ?", "UTC", "2012-07-09T23:35:00Z", "2012-08-09T00:00:00+00:00", SAME),
    (ROBFIG, "0 0 0 */5 Apr,Aug,Oct Mon", "UTC", "2012-07-09T23:35:00Z", "2012-08-01T00:00:00+00:00",
        Some(("2012-08-06T00:00:00+00:00", STARRED_DAY))),
    (ROBFIG, "0 0 0 */5 Oct Mon", "UTC", "2012-07-09T23:35:00Z", "2012-10-01T00:00:00+00:00", SAME),
    (ROBFIG, "0 0 0 * Feb Mon", "UTC", "2012-07-09T23:35:00Z", "2013-02-04T00:00:00+00:00", SAME),
    (ROBFIG, "0 0 0 * Feb Mon/2", "UTC", "2012-07-09T23:35:00Z", "2013-02-01T00:00:00+00:00", SAME),
    (ROBFIG, "0 * * * * *", "UTC", "2012-12-31T23:59:45Z", "2013-01-01T00:00:00+00:00", SAME),
    (ROBFIG, "0 0 0 29 Feb ?", "UTC", "2012-07-09T23:35:00Z", "2016-02-29T00:00:00+00:00", SAME),
    (ROBFIG, "0 * * 1,15 * Sun", "UTC", "2012-06-14T23:59:59Z", "2012-06-15T00:00:00+00:00", SAME),
    (ROBFIG, "0 30 08 ? Jul Sun", "UTC", "2012-07-15T08:29:59Z", "2012-07-15T08:30:00+00:00", SAME),
    (ROBFIG, "@weekly", "UTC", "2012-07-08T01:00:00Z", "2012-07-15T00:00:00+00:00", SAME),
    (ROBFIG, "TZ=America/New_York 0 30 2 11 Mar ?", "", "2012-03-11T05:00:00Z", "2013-03-11T02:30:00-04:00",
        Some(("2012-03-11T03:00:00-04:00", CAUGHT_UP))),
    (ROBFIG, "TZ=America/New_York 0 0 * * * ?", "", "2012-03-11T06:00:00Z", "2012-03-11T03:00:00-04:00", SAME),
    (ROBFIG, "CRON_TZ=America/New_York 0 0 * * * ?", "", "2012-03-11T07:00:00Z", "2012-03-11T04:00:00-04:00", SAME),
    (ROBFIG, "0 0 1 * * ?", YORK, "2012-03-11T05:00:00Z", "2012-03-11T01:00:00-05:00", SAME),
    (ROBFIG, "0 0 1 * * ?", YORK, "2012-03-11T06:00:00Z", "2012-03-12T01:00:00-04:00", SAME),
    (ROBFIG, "0 0 2 * * ?", YORK, "2012-03-11T05:00:00Z", "2012-03-12T02:00:00-04:00",
        Some(("2012-03-11T03:00:00-04:00", CAUGHT_UP))),
    (ROBFIG, "0 30 2 04 Nov ?", YORK, "2012-11-04T04:00:00Z", "2012-11-04T02:30:00-05:00", SAME),
    (ROBFIG, "0 30 1 04 Nov ?", YORK, "2012-11-04T05:45:00Z", "2012-11-04T01:30:00-05:00",
        Some(("2013-11-04T01:30:00-05:00", ONCE))),
    (ROBFIG, "0 0 * * * ?", YORK, "2012-11-04T05:00:00Z", "2012-11-04T01:00:00-05:00", SAME),
    (ROBFIG, "0 0 * * * ?", YORK, "2012-11-04T06:00:00Z", "2012-11-04T02:00:00-05:00", SAME),
    (ROBFIG, "0 0 1 * * ?", YORK, "2012-11-04T04:00:00Z", "2012-11-04T01:00:00-04:00", SAME),
    (ROBFIG, "0 0 1 * * ?", YORK, "2012-11-04T05:00:00Z", "2012-11-04T01:00:00-05:00",
        Some(("2012-11-05T01:00:00-05:00", ONCE))),
    (ROBFIG, "0 0 2 * * ?", YORK, "2012-11-04T04:00:00Z", "2012-11-04T02:00:00-05:00", SAME),
    (ROBFIG, "0 0 3 * * ?", YORK, "2012-11-04T08:00:00Z", "2012-11-05T03:00:00-05:00", SAME),
    (ROBFIG, "0 0 3 3 * ?", YORK, "2012-11-04T04:00:00Z", "2012-12-03T03:00:00-05:00", SAME),
    (ROBFIG, "0 0 9 10 * ?", PAULO, "2018-10-17T09:00:00Z", "2018-11-10T09:00:00-02:00", SAME),
    (ROBFIG, "0 0 9 22 * ?", PAULO, "2018-02-14T10:00:00Z", "2018-02-22T09:00:00-03:00", SAME),

    // Local times less than three hours apart; a star in the hour or the minute makes it real time there.
    (CRONIE, "30 2 * * *", YORK, "2016-03-13T06:59:00Z", "2016-03-13T03:00:00-04:00", SAME),
    (CRONIE, "30 1 * * *", YORK, "2016-11-06T05:30:00Z", "2016-11-07T01:30:00-05:00", SAME),
    (CRONIE, "30 * * * *", YORK, "2016-11-06T05:30:00Z", "2016-11-06T01:30:00-05:00", SAME),
    (CRONIE, "* 1 * * *", YORK, "2016-11-06T05:59:00Z", "2016-11-06T01:00:00-05:00",
        Some(("2016-11-07T01:00:00-05:00", ONCE))),
    (CRONIE, "30 4 1,15 * 5", "UTC", "2026-05-01T04:30:00Z", "2026-05-08T04:30:00+00:00", SAME),
    (CRONIE, "30 4 */2 * 5", "UTC", "2026-05-01T04:30:00Z", "2026-05-15T04:30:00+00:00", SAME),

    (CRONOS, "0 */30 *      *  *  *", YORK, "2016-03-13T06:30:00Z", "2016-03-13T03:00:00-04:00", SAME),
    (CRONOS, "0 */30 */2    *  *  *", YORK, "2016-03-13T06:30:00Z", "2016-03-13T03:00:00-04:00",
        Some(("2016-03-13T04:00:00-04:00", REAL_TIME))),
    (CRONOS, "0 0,30 0-23/2 *  *  *", YORK, "2016-03-13T05:30:00Z", "2016-03-13T03:00:00-04:00", SAME),
    (CRONOS, "0 0,30 2      *  *  *", YORK, "2016-03-12T07:30:00Z", "2016-03-13T03:00:00-04:00", SAME),
    (CRONOS, "0 */30 2      13 03 *", YORK, "2016-03-13T06:59:00Z", "2016-03-13T03:00:00-04:00", SAME),
    (CRONOS, "0 0,30 02     13 03 *", YORK, "2016-03-13T06:45:00Z", "2016-03-13T03:00:00-04:00", SAME),
    (CRONOS, "0 30   2      *  *  *", YORK, "2016-03-12T07:30:00Z", "2016-03-13T03:00:00-04:00", SAME),
    (CRONOS, "0 30   0-23/2 *  *  *", YORK, "2016-03-13T05:30:00Z", "2016-03-13T03:00:00-04:00", SAME),
    (CRONOS, "0 0,59 *      *  *  *", YORK, "2016-03-13T06:59:00Z", "2016-03-13T03:00:00-04:00", SAME),
    (CRONOS, "0 30   *      *  3  SUN#2", YORK, "2016-03-13T06:59:00Z", "2016-03-13T03:00:00-04:00",
        Some(("2016-03-13T03:30:00-04:00", REAL_TIME))),
    (CRONOS, "30 0 L  * *", AMMAN, "2017-03-30T21:59:59Z", "2017-03-31T01:00:00+03:00", SAME),
    (CRONOS, "30 0 L  * *", AMMAN, "2017-03-30T22:00:00Z", "2017-04-30T00:30:00+03:00", SAME),
    (CRONOS, "30 0 LW * *", AMMAN, "2018-03-29T21:59:00Z", "2018-03-30T01:00:00+03:00", SAME),
    (CRONOS, "30 0 29 * *", AMMAN, "2019-03-28T21:59:00Z", "2019-03-29T01:00:00+03:00", SAME),
    (CRONOS, "30 0 L  * *", AMMAN, "2014-10-30T22:00:00Z", "2014-11-30T00:30:00+02:00", SAME),
    (CRONOS, "30 0 L  * *", AMMAN, "2014-10-30T21:00:00Z", "2014-10-31T00:30:00+03:00", SAME),
    (CRONOS, "30 0 LW * *", AMMAN, "2015-10-29T21:00:00Z", "2015-10-30T00:30:00+03:00", SAME),
    (CRONOS, "30 23 * * *", SANTIAGO, "2017-05-14T02:59:59Z", "2017-05-14T23:30:00-04:00", SAME),
    (CRONOS, "0 */30 *      *  *  *", HOWE, "2017-09-30T15:15:00Z", "2017-10-01T02:30:00+11:00", SAME),
    (CRONOS, "0 1-58 */2    *  *  *", HOWE, "2017-09-30T15:29:00Z", "2017-10-01T02:30:00+11:00", SAME),
    (CRONOS, "0 0,30 2      *  *  *", HOWE, "2017-09-30T15:29:00Z", "2017-10-01T02:30:00+11:00", SAME),
    (CRONOS, "0 0,30,59 *   *  *  *", HOWE, "2017-09-30T15:29:00Z", "2017-10-01T02:30:00+11:00", SAME),
    (CRONOS, "0 30   *      *  10 SUN#1", HOWE, "2017-09-30T15:29:00Z", "2017-10-01T02:30:00+11:00", SAME),
    (CRONOS, "0 */30 */2 * * *", YORK, "2016-11-06T05:29:00Z", "2016-11-06T02:00:00-05:00", SAME),
    (CRONOS, "0 0    0/2 * * *", YORK, "2016-11-06T04:30:00Z", "2016-11-06T02:00:00-05:00", SAME),
    (CRONOS, "0 */30 *   * * *", YORK, "2016-11-06T05:30:00Z", "2016-11-06T01:00:00-05:00", SAME),
    (CRONOS, "0 */30 *   * * *", YORK, "2016-11-06T06:30:00Z", "2016-11-06T02:00:00-05:00", SAME),
    (CRONOS, "0 30   */1 * * *", YORK, "2016-11-06T05:30:00Z", "2016-11-06T01:30:00-05:00", SAME),
    (CRONOS, "0 30   1-9 * * *", YORK, "2016-11-06T05:30:00Z", "2016-11-06T01:30:00-05:00",
        Some(("2016-11-06T02:30:00-05:00", ONCE))),
    (CRONOS, "0 */30 1   * * *", YORK, "2016-11-06T05:30:00Z", "2016-11-06T01:00:00-05:00",
        Some(("2016-11-07T01:00:00-05:00", ONCE))),
    (CRONOS, "0-30 0 1   * * *", YORK, "2016-11-06T05:00:30Z", "2016-11-06T01:00:00-05:00",
        Some(("2016-11-07T01:00:00-05:00", ONCE))),
    (CRONOS, "0 0,30 1   * * *", YORK, "2016-11-06T05:30:00Z", "2016-11-07T01:00:00-05:00", SAME),
    (CRONOS, "0 0,30 1   6/1 1-12 0/1", YORK, "2016-11-06T05:30:00Z", "2016-11-07T01:00:00-05:00", SAME),
    (CRONOS, "0 0    1   6 11 *", YORK, "2015-11-07T06:00:00Z", "2016-11-06T01:00:00-04:00", SAME),
    (CRONOS, "0 0    1   * 11 SUN#1", YORK, "2015-11-01T06:00:00Z", "2016-11-06T01:00:00-04:00", SAME),
    (CRONOS, "0 30   1   * * *", HOWE, "2017-04-01T14:30:00Z", "2017-04-03T01:30:00+10:30", SAME),
    (CRONOS, "*/30 30 1  * * *", HOWE, "2017-04-01T14:30:31Z", "2017-04-02T01:30:00+10:30",
        Some(("2017-04-03T01:30:00+10:30", ONCE))),
    (CRONOS, "5-8,19,20,35-41 * * * * *", "UTC", "2016-12-09T17:35:42Z", "2016-12-09T17:36:05+00:00", SAME),
    (CRONOS, "* 10/5 * * * *", "UTC", "2016-12-09T15:59:00Z", "2016-12-09T16:10:00+00:00", SAME),
    (CRONOS, "0 57,20/20,30/20,32-34/2,58 * * * *", "UTC", "2017-04-17T17:35:00Z", "2017-04-17T17:40:00+00:00", SAME),
    (CRONOS, "* * * 5-8,19,20,29-30 * *", "UTC", "2017-02-27T00:00:00Z", "2017-03-05T00:00:00+00:00", SAME),
    (CRONOS, "* * * * 2-4,JUN,7,SEP-nov *", "UTC", "2016-08-15T00:00:00Z", "2016-09-01T00:00:00+00:00", SAME),
    (CRONOS, "* * * * * FRI/3", "UTC", "2016-12-03T00:00:00Z", "2016-12-09T00:00:00+00:00", SAME),
    (CRONOS, "* * * * * 4-07", "UTC", "2016-12-12T00:00:00Z", "2016-12-15T00:00:00+00:00", SAME),
    (CRONOS, "00 00 00 11 12 SUN", "UTC", "2016-12-10T00:00:00Z", "2016-12-11T00:00:00+00:00", SAME),
    (CRONOS, "00 05 18 13 * 05", "UTC", "2016-01-01T00:00:00Z", "2016-05-13T18:05:00+00:00",
        Some(("2016-01-01T18:05:00+00:00", "one of two day fields is enough, as in crontab(5); + asks for both"))),
    (CRONOS, "00 05 18 13 * +05", "UTC", "2016-01-01T00:00:00Z", "2016-05-13T18:05:00+00:00", SAME),
    (CRONOS, "* * * L * *", "UTC", "2099-12-05T00:00:00Z", "2099-12-31T00:00:00+00:00", SAME),
    (CRONOS, "* * * * * WEDL", "UTC", "2017-01-01T00:00:00Z", "2017-01-25T00:00:00+00:00", SAME),
    (CRONOS, "* * * * * 6L", "UTC", "2017-01-01T00:00:00Z", "2017-01-28T00:00:00+00:00", SAME),
    (CRONOS, "* * * * * 0#2", "UTC", "2017-01-01T00:00:00Z", "2017-01-08T00:00:00+00:00", SAME),
    (CRONOS, "0 30 10 1W * *", "UTC", "2017-04-01T00:00:00Z", "2017-04-03T10:30:00+00:00", SAME),
    (CRONOS, "0 30 10 2W * *", "UTC", "2017-04-02T00:00:00Z", "2017-04-03T10:30:00+00:00", SAME),
    (CRONOS, "0 30 17 7W * *", "UTC", "2017-01-06T17:45:00Z", "2017-02-07T17:30:00+00:00", SAME),
    (CRONOS, "0 30 17 30W * *", "UTC", "2017-04-28T17:45:00Z", "2017-05-30T17:30:00+00:00", SAME),
    (CRONOS, "0 30 17 31W * *", "UTC", "2018-03-30T17:45:00Z", "2018-05-31T17:30:00+00:00", SAME),
    (CRONOS, "0 30 17 LW * *", "UTC", "2017-09-29T17:45:00Z", "2017-10-31T17:30:00+00:00", SAME),
    (CRONOS, "* * * lw * *", "UTC", "2017-05-30T00:00:00Z", "2017-05-31T00:00:00+00:00", SAME),
];

/// What others read and we refuse, and why.
#[rustfmt::skip]
const REFUSED: &[(&str, &str, &str)] = &[
    (CRONOS, "55-5 * * * * *", "the range runs backwards: most take it for a mistake, and a list says the same"),
    (CRONOS, "* * * * 12-2 *", "the range runs backwards"),
    (CRONOS, "* * * L-1 * *", "L stands alone: days counted from the end are rare, and read as a range by others"),
    (CRONOS, "* * * L-4W * *", "the same"),
    (CRONOS, "0 H/30 * * * *", "a time chosen by a hash; Jitter spreads jobs"),
    (ROBFIG, "0 0 0 30 Feb ?", "it never fires: the error is worth more than silence"),
    (ROBFIG, "0 0 0 31 Apr ?", "it never fires"),
    (ROBFIG, "60 0 * * *", "not a minute; refused there as well"),
    (ROBFIG, "0 60 * * *", "not an hour; refused there as well"),
    (ROBFIG, "0 0 * * XYZ", "not a day; refused there as well"),
    ("Quartz", "0 0 12 ? * L", "Saturday there; a lone L says too little"),
    ("Quartz", "0 0 12 1 1 ? 2027", "a year"),
    ("FreeBSD", "@every_minute", "* * * * * says it"),
    ("cronie", "@reboot", "a thread does that"),
];

#[test]
fn what_others_answer() {
    for (whose, cron, zone, after, theirs, other) in ROWS {
        let expected = match other {
            None => theirs,
            Some((ours, _)) => {
                assert_ne!(ours, theirs, "{whose} {cron}: not another answer");
                ours
            }
        };
        assert_eq!(ticks_after(cron, zone, after, 1), [*expected], "{whose}: {cron} {zone} after {after}");
    }
}

#[test]
fn what_others_take_and_we_refuse() {
    for (whose, cron, why) in REFUSED {
        assert!(Schedule::parse(cron, None).is_err(), "{whose}: {cron} ({why})");
    }
}
