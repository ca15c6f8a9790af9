//! Days, weeks and months, numbered from 1970 on, over dates of the Gregorian calendar.
//!
//! A date is a whole number here: days since 1970-01-01. Which date it is where and when is the business of
//! [zones](super::zone).

use super::Span;

/// From here on a number of a label is none that any clock comes to; what is reckoned from it stays in 64 bits.
pub(super) const LABEL_MAX: u64 = 1 << 40;

/// Monday 1969-12-29, in days since 1970-01-01: the first day of week 0.
const FIRST_MONDAY: i64 = -3;

const DAYS_PER_WEEK: i64 = 7;

/// Days of 400 years, after which the calendar repeats itself.
const DAYS_PER_ERA: i64 = 146_097;

/// From 0000-03-01, where years begin whose leap day is their last, to 1970-01-01, in days.
const DAYS_TO_1970: i64 = 719_468;

/// A unit of the calendar: what a window is as long as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// From midnight to midnight. Day 0 is 1970-01-01.
    Day,
    /// From Monday to Monday, as in ISO 8601. Week 0 is the one that 1970-01-01 is in.
    Week,
    /// From the first of a month to the first of the next. Month 0 is January 1970.
    Month,
}

impl Unit {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Day, Self::Week, Self::Month];

    /// The word for it in policy files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// The unit of this word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.as_str() == word)
    }

    /// About how long it is: 24 hours, 7 or 30 times that.
    pub(super) const fn usual_length(self) -> Span {
        let days = match self {
            Self::Day => 1,
            Self::Week => 7,
            Self::Month => 30,
        };
        Span::secs(days * 86_400)
    }

    /// The number of the unit that a date is in; 0 for dates before.
    pub(super) fn number_of(self, day: i64) -> u64 {
        let number = match self {
            Self::Day => day,
            Self::Week => (day - FIRST_MONDAY).div_euclid(DAYS_PER_WEEK),
            Self::Month => {
                let (year, month) = month_of(day);
                (year - 1970) * 12 + month - 1
            }
        };
        u64::try_from(number).unwrap_or(0)
    }

    /// The first date of a unit, by its number, which is at most [`LABEL_MAX`].
    pub(super) fn first_day(self, number: u64) -> i64 {
        let number = number.min(LABEL_MAX) as i64;
        match self {
            Self::Day => number,
            Self::Week => FIRST_MONDAY + number * DAYS_PER_WEEK,
            Self::Month => day_of(1970 + number / 12, 1 + number % 12, 1),
        }
    }
}

/// A date, which exists, in days since 1970-01-01; `month` is 1 to 12.
pub const fn day_of(year: i64, month: i64, day: i64) -> i64 {
    // Years from March on: the leap day is the last, and the lengths of months before it follow a rule.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_PER_ERA + day_of_era - DAYS_TO_1970
}

/// The year and the month, 1 to 12, that a date is in.
const fn month_of(day: i64) -> (i64, i64) {
    let day = day + DAYS_TO_1970;
    let (era, day_of_era) = (day.div_euclid(DAYS_PER_ERA), day.rem_euclid(DAYS_PER_ERA));
    // Less the leap days before it: one each 4 years, none each 100, and one each 400.
    let without_leap = day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096;
    let year_of_era = without_leap / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let (year, month) = (era * 400 + year_of_era, (month + 2) % 12 + 1);
    (if month <= 2 { year + 1 } else { year }, month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_gregorian_calendar() {
        let mut date = jiff::civil::date(1599, 12, 31);
        let first = day_of(1599, 12, 31);
        for day in first..day_of(2401, 1, 2) {
            let (year, month, of_month) = (date.year(), date.month(), date.day());
            assert_eq!(day_of(year.into(), month.into(), of_month.into()), day, "{date}");
            assert_eq!(month_of(day), (year.into(), month.into()), "{date}");
            date = date.tomorrow().expect("in range");
        }
        assert_eq!(day_of(1970, 1, 1), 0);
    }

    #[test]
    fn units_are_numbered_from_1970_on() {
        for (unit, date, number) in [
            (Unit::Day, (1970, 1, 1), 0),
            (Unit::Day, (1970, 1, 2), 1),
            (Unit::Day, (2024, 2, 29), 19_782),
            (Unit::Week, (1970, 1, 4), 0),
            (Unit::Week, (1970, 1, 5), 1),
            (Unit::Week, (2026, 11, 29), 2_969), // a Sunday
            (Unit::Week, (2026, 11, 30), 2_970),
            (Unit::Month, (1970, 1, 31), 0),
            (Unit::Month, (1971, 1, 1), 12),
            (Unit::Month, (2000, 2, 29), 361),
        ] {
            let (year, month, day) = date;
            assert_eq!(unit.number_of(day_of(year, month, day)), number, "{unit:?} {date:?}");
        }
    }

    #[test]
    fn a_unit_begins_where_the_one_before_it_ends() {
        for unit in Unit::ALL {
            for number in 1..5_000 {
                let first = unit.first_day(number);
                assert_eq!(unit.number_of(first), number, "{unit:?}");
                assert_eq!(unit.number_of(first - 1), number - 1, "{unit:?}");
            }
        }
    }

    #[test]
    fn numbers_that_no_clock_comes_to_do_no_harm() {
        for unit in Unit::ALL {
            assert_eq!(unit.number_of(-1_000_000), 0);
            assert!(unit.first_day(u64::MAX) >= LABEL_MAX as i64);
        }
    }
}
