//! From written to checked: `[apps.rollout]`.

use super::check::{any, number};
use super::written::{At, Dark, WrittenRollout, Wrong};
use crate::rollout::{By, Names, Rollout, Share};

const DAY_S: u32 = 24 * 60 * 60;

/// Checks the table of one app.
pub(super) fn checked(written: WrittenRollout) -> Result<Rollout, Wrong> {
    let default = Rollout::default();
    Ok(Rollout {
        kill: any(written.kill, default.kill),
        percent: written.percent.map_or(Ok(default.percent), share)?,
        dark: written.dark.map_or(Ok(default.dark), dark)?,
        by: written.by.map(by).transpose()?,
        seed: written.seed.map_or(default.seed, |seed| seed.value.into()),
        allow: names(any(written.allow, Vec::new()))?,
        deny: names(any(written.deny, Vec::new()))?,
        check_again_s: number(written.check_again_s, 1..=DAY_S, default.check_again_s)?,
    })
}

fn share(At { value, place }: At<f64>) -> Result<Share, Wrong> {
    let message = || format!("expected a number from 0 to 100, such as 0.5, found {value}");
    Share::of_percent(value).ok_or_else(|| Wrong::at(place, message()))
}

fn dark(At { value, place }: At<Dark>) -> Result<Share, Wrong> {
    match value {
        Dark::All(true) => Ok(Share::ALL),
        Dark::All(false) => Ok(Share::NONE),
        Dark::Percent(value) => share(At { value, place }),
    }
}

fn by(At { value, place }: At<String>) -> Result<By, Wrong> {
    match value.as_str() {
        "user" => Ok(By::User),
        "site" => Ok(By::Site),
        _ => Err(Wrong::at(place, format!("expected \"user\" or \"site\", found {value:?}"))),
    }
}

fn names(entries: Vec<At<String>>) -> Result<Names, Wrong> {
    let mut names = Names::default();
    for At { value, place } in entries {
        if !names.add(&value) {
            let message = format!("expected \"user:…\" or \"site:…\", found {value:?}");
            return Err(Wrong::at(place, message));
        }
    }
    Ok(names)
}
