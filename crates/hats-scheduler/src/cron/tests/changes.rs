//! Where clocks change. Each table was checked by hand against the zone's own history.

use super::*;

#[test]
fn a_repeated_hour_has_local_times_once_and_real_time_twice() {
    let berlin = "Europe/Berlin";
    let before = "2026-10-24T22:00:00Z";
    // At 03:00+02:00 it becomes 02:00+01:00.
    check("30 2 * * *", berlin, before, &["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]);
    check("0 2 * * *", berlin, before, &["2026-10-25T02:00:00+02:00", "2026-10-26T02:00:00+01:00"]);
    check("0 3 * * *", berlin, before, &["2026-10-25T03:00:00+01:00", "2026-10-26T03:00:00+01:00"]);
    check(
        "0 1-4 * * *",
        berlin,
        before,
        &[
            "2026-10-25T01:00:00+02:00",
            "2026-10-25T02:00:00+02:00",
            "2026-10-25T03:00:00+01:00",
            "2026-10-25T04:00:00+01:00",
        ],
    );
    check(
        "30 * * * *",
        berlin,
        "2026-10-24T23:00:00Z",
        &[
            "2026-10-25T01:30:00+02:00",
            "2026-10-25T02:30:00+02:00",
            "2026-10-25T02:30:00+01:00",
            "2026-10-25T03:30:00+01:00",
        ],
    );
    check(
        "0 */2 * * *",
        berlin,
        "2026-10-24T23:00:00Z",
        &["2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T04:00:00+01:00"],
    );
    // Asked within the second half, local times of it are past.
    check("*/30 2 * * *", berlin, "2026-10-25T01:10:00Z", &["2026-10-26T02:00:00+01:00"]);
    let schedule = schedule("*/30 2 * * *", berlin);
    assert_eq!(schedule.newest_by(at("2026-10-25T01:40:00Z")), Some(at("2026-10-25T00:30:00Z")));
}

#[test]
fn a_skipped_hour_has_one_tick_of_local_times_and_none_of_real_time() {
    let berlin = "Europe/Berlin";
    let before = "2026-03-28T12:00:00Z";
    // At 02:00+01:00 it becomes 03:00+02:00.
    check("30 2 * * *", berlin, before, &["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]);
    // All that is leapt over is one tick.
    check("*/10 2 * * *", berlin, before, &["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"]);
    check("* * 2 * * *", berlin, before, &["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"]);
    // What is due at 03:00 anyway is the same tick; later ones stay theirs.
    check("0 2,3 * * *", berlin, before, &["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"]);
    check(
        "15 2,3 * * *",
        berlin,
        before,
        &["2026-03-29T03:00:00+02:00", "2026-03-29T03:15:00+02:00", "2026-03-30T02:15:00+02:00"],
    );
    check(
        "0 0-4 * * *",
        berlin,
        "2026-03-28T22:30:00Z",
        &[
            "2026-03-29T00:00:00+01:00",
            "2026-03-29T01:00:00+01:00",
            "2026-03-29T03:00:00+02:00",
            "2026-03-29T04:00:00+02:00",
        ],
    );
    let midnight = "2026-03-28T23:00:00Z";
    check(
        "30 * * * *",
        berlin,
        midnight,
        &["2026-03-29T00:30:00+01:00", "2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00"],
    );
    check("0 */2 * * *", berlin, midnight, &["2026-03-29T04:00:00+02:00", "2026-03-29T06:00:00+02:00"]);
    check("30 */2 * * *", berlin, midnight, &["2026-03-29T00:30:00+01:00", "2026-03-29T04:30:00+02:00"]);
    // A day that is not named has nothing to catch up.
    check("30 2 * * MON", berlin, before, &["2026-03-30T02:30:00+02:00"]);
    check("30 2 29 3 *", berlin, before, &["2026-03-29T03:00:00+02:00", "2027-03-29T02:30:00+02:00"]);
}

#[test]
fn in_new_york_as_well() {
    let york = "America/New_York";
    check(
        "30 2 * * *",
        york,
        "2026-03-07T12:00:00Z",
        &["2026-03-08T03:00:00-04:00", "2026-03-09T02:30:00-04:00"],
    );
    check(
        "30 1 * * *",
        york,
        "2026-10-31T12:00:00Z",
        &["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"],
    );
    check(
        "30 */1 * * *",
        york,
        "2026-11-01T05:00:00Z",
        &["2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00"],
    );
}

#[test]
fn a_change_at_midnight_skips_or_repeats_it() {
    // Chile: 00:00 becomes 01:00 in September, 24:00 becomes 23:00 in April.
    let santiago = "America/Santiago";
    check(
        "0 0 * * *",
        santiago,
        "2026-09-05T12:00:00Z",
        &["2026-09-06T01:00:00-03:00", "2026-09-07T00:00:00-03:00"],
    );
    check("0 0 6 9 *", santiago, "2026-09-05T12:00:00Z", &["2026-09-06T01:00:00-03:00"]);
    check("0 0 * * SUN", santiago, "2026-09-05T12:00:00Z", &["2026-09-06T01:00:00-03:00"]);
    check(
        "0 0,1 * * *",
        santiago,
        "2026-09-05T12:00:00Z",
        &["2026-09-06T01:00:00-03:00", "2026-09-07T00:00:00-03:00"],
    );
    check(
        "30 23 * * *",
        santiago,
        "2026-04-04T12:00:00Z",
        &["2026-04-04T23:30:00-03:00", "2026-04-05T23:30:00-04:00"],
    );
    check(
        "0 0 * * *",
        santiago,
        "2026-04-04T12:00:00Z",
        &["2026-04-05T00:00:00-04:00", "2026-04-06T00:00:00-04:00"],
    );
    check(
        "30 */1 * * SAT",
        santiago,
        "2026-04-05T02:00:00Z",
        &["2026-04-04T23:30:00-03:00", "2026-04-04T23:30:00-04:00"],
    );
    // Egypt, on a Friday.
    check(
        "@daily",
        "Africa/Cairo",
        "2026-04-23T12:00:00Z",
        &["2026-04-24T01:00:00+03:00", "2026-04-25T00:00:00+03:00"],
    );
    check(
        "0 0 * * *",
        "Africa/Cairo",
        "2026-10-29T12:00:00Z",
        &["2026-10-30T00:00:00+02:00", "2026-10-31T00:00:00+02:00"],
    );
}

#[test]
fn half_an_hour_and_two_hours_of_summer_time() {
    // 02:00+10:30 becomes 02:30+11:00 in October, 02:00+11:00 becomes 01:30+10:30 in April.
    let howe = "Australia/Lord_Howe";
    check(
        "15 2 * * *",
        howe,
        "2026-10-03T12:00:00Z",
        &["2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"],
    );
    check(
        "15,30 2 * * *",
        howe,
        "2026-10-03T12:00:00Z",
        &["2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"],
    );
    check(
        "0,45 2 * * *",
        howe,
        "2026-10-03T12:00:00Z",
        &["2026-10-04T02:30:00+11:00", "2026-10-04T02:45:00+11:00"],
    );
    check(
        "*/15 */1 * * *",
        howe,
        "2026-10-03T15:15:00Z",
        &["2026-10-04T02:30:00+11:00", "2026-10-04T02:45:00+11:00"],
    );
    check(
        "45 1 * * *",
        howe,
        "2026-04-04T12:00:00Z",
        &["2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"],
    );
    check(
        "15 1 * * *",
        howe,
        "2026-04-04T12:00:00Z",
        &["2026-04-05T01:15:00+11:00", "2026-04-06T01:15:00+10:30"],
    );
    check(
        "*/30 * * * *",
        howe,
        "2026-04-04T14:00:00Z",
        &["2026-04-05T01:30:00+11:00", "2026-04-05T01:30:00+10:30", "2026-04-05T02:00:00+10:30"],
    );
    // 01:00+00:00 becomes 03:00+02:00, and back.
    let troll = "Antarctica/Troll";
    check(
        "0,30 1,2 * * *",
        troll,
        "2026-03-28T12:00:00Z",
        &["2026-03-29T03:00:00+02:00", "2026-03-30T01:00:00+02:00"],
    );
    check("0 * * * *", troll, "2026-03-29T00:00:00Z", &["2026-03-29T03:00:00+02:00"]);
    check(
        "0 2 * * *",
        troll,
        "2026-10-24T12:00:00Z",
        &["2026-10-25T02:00:00+02:00", "2026-10-26T02:00:00+00:00"],
    );
    check(
        "0 * * * *",
        troll,
        "2026-10-24T23:00:00Z",
        &["2026-10-25T02:00:00+02:00", "2026-10-25T01:00:00+00:00", "2026-10-25T02:00:00+00:00"],
    );
}

#[test]
fn a_day_left_out_at_the_date_line() {
    // Samoa had no 30 December 2011: 24:00-10:00 of the 29th became 00:00+14:00 of the 31st.
    let apia = "Pacific/Apia";
    let before = "2011-12-29T22:30:00Z";
    check("0 12 * * *", apia, before, &["2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00"]);
    check("0 0 * * *", apia, before, &["2011-12-31T00:00:00+14:00", "2012-01-01T00:00:00+14:00"]);
    check("0 0,12 * * *", apia, before, &["2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00"]);
    check("0 9 30 12 *", apia, before, &["2011-12-31T00:00:00+14:00", "2012-12-30T09:00:00+14:00"]);
    check("0 9 * * FRI", apia, before, &["2011-12-31T00:00:00+14:00", "2012-01-06T09:00:00+14:00"]);
    check(
        "0 */6 * * *",
        apia,
        before,
        &["2011-12-29T18:00:00-10:00", "2011-12-31T00:00:00+14:00", "2011-12-31T06:00:00+14:00"],
    );
    check("0 */6 30 12 *", apia, before, &["2012-12-30T00:00:00+14:00"]);
    let minutely = schedule("* 0-23 * * *", apia);
    assert_eq!(minutely.count(at("2011-12-30T09:59:00Z"), at("2011-12-30T10:00:00Z")), 1);
    // Kwajalein had no 21 August 1993.
    let kwajalein = "Pacific/Kwajalein";
    let before = "1993-08-21T01:00:00Z";
    check("0 12 * * *", kwajalein, before, &["1993-08-22T00:00:00+12:00", "1993-08-22T12:00:00+12:00"]);
    // Alaska had a day twice when it was sold, from 15:30 on 18 October 1867 on.
    let october = |cron| {
        let schedule = schedule(cron, "America/Sitka");
        schedule.ticks(at("1867-10-01T00:00:00Z"), at("1867-10-31T00:00:00Z")).count()
    };
    assert_eq!((october("0 0,12 19 10 *"), october("0 */12 19 10 *")), (2, 4));
}

#[test]
fn a_new_standard_time() {
    // Venezuela: half an hour back in 2007, forward again in 2016.
    let caracas = "America/Caracas";
    check(
        "45 2 * * *",
        caracas,
        "2016-04-30T12:00:00Z",
        &["2016-05-01T03:00:00-04:00", "2016-05-02T02:45:00-04:00"],
    );
    check(
        "45 2 * * *",
        caracas,
        "2007-12-08T12:00:00Z",
        &["2007-12-09T02:45:00-04:00", "2007-12-10T02:45:00-04:30"],
    );
    check(
        "45 * * * *",
        caracas,
        "2007-12-09T06:00:00Z",
        &["2007-12-09T02:45:00-04:00", "2007-12-09T02:45:00-04:30"],
    );
    // North Korea: half an hour at midnight.
    let pyongyang = "Asia/Pyongyang";
    check(
        "45 23 * * *",
        pyongyang,
        "2018-05-04T01:00:00Z",
        &["2018-05-05T00:00:00+09:00", "2018-05-05T23:45:00+09:00"],
    );
    check(
        "45 23 * * *",
        pyongyang,
        "2015-08-14T01:00:00Z",
        &["2015-08-14T23:45:00+09:00", "2015-08-15T23:45:00+08:30"],
    );
    // New York took up standard time at noon: 12:03:58 became 12:00.
    let york = schedule("0 12 * * *", "America/New_York");
    assert_eq!(york.next_after(at("1883-11-18T12:00:00Z")), Some(at("1883-11-18T16:56:02Z")));
    let york = schedule("0 */12 * * *", "America/New_York");
    let ticks: Vec<_> = york.ticks(at("1883-11-18T12:00:00Z"), at("1883-11-18T20:00:00Z")).collect();
    assert_eq!(ticks, [at("1883-11-18T16:56:02Z"), at("1883-11-18T17:00:00Z")]);
}

#[test]
fn summer_time_that_pauses_for_ramadan() {
    // Morocco: 03:00+01:00 becomes 02:00+00:00 on 15 February 2026, 02:00 becomes 03:00+01:00 on 22 March.
    let casablanca = "Africa/Casablanca";
    check(
        "30 2 * * *",
        casablanca,
        "2026-02-14T12:00:00Z",
        &["2026-02-15T02:30:00+01:00", "2026-02-16T02:30:00+00:00"],
    );
    check(
        "30 2 * * *",
        casablanca,
        "2026-03-21T12:00:00Z",
        &["2026-03-22T03:00:00+01:00", "2026-03-23T02:30:00+01:00"],
    );
}

#[test]
fn far_in_the_future_the_rules_go_on() {
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2999-03-30T12:00:00Z",
        &["2999-03-31T03:00:00+02:00", "2999-04-01T02:30:00+02:00"],
    );
}

#[test]
fn every_knows_no_zone() {
    let every = schedule("@every 1h", "Europe/Berlin").anchored(at("2026-03-29T00:00:00Z"));
    let ticks: Vec<_> = every.ticks(at("2026-03-29T00:00:00Z"), at("2026-03-29T03:00:00Z")).collect();
    assert_eq!(ticks, ["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z", "2026-03-29T03:00:00Z"].map(at));
    assert_eq!(every.local_time(ticks[0]), "2026-03-29T01:00:00+00:00");
}
