//! `fanfare token`: a token as an application's own server would make it, signed here and now.

use super::access::AppArgs;
use crate::tokens::{now_s, sign};
use anyhow::{Context, bail};
use clap::Args;
use fanfare_proto::channel::{ChannelPattern, NAME_LEN_MAX};
use serde::Serialize;
use serde_json::value::RawValue;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

pub const EXAMPLES: &str = "\
Examples:
  fanfare token --channels private-orders
  fanfare token --channels 'private-*,presence-room' --sub ann --info '{\"name\":\"Ann\"}' --ttl 8h
  fanfare token --publish chat --key KEY --secret SECRET
  curl \"http://127.0.0.1:6001/sub/fanfare-key/private-orders?transport=sse&token=$(fanfare token --channels private-orders)\"";

#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Channels that may be read: names, or beginnings with a *
    #[arg(long, value_delimiter = ',', value_parser = pattern, value_name = "NAME,…")]
    channels: Vec<String>,
    /// Channels that may be published to, in the same way
    #[arg(long, value_delimiter = ',', value_parser = pattern, value_name = "NAME,…")]
    publish: Vec<String>,
    /// The user: who it is on presence channels
    #[arg(long, value_name = "USER")]
    sub: Option<String>,
    /// What presence channels tell of the user, as JSON
    #[arg(long, value_name = "JSON")]
    info: Option<String>,
    /// How long it is good: 90s, 15m, 1h, 7d
    #[arg(long, value_parser = duration, default_value = "1h")]
    ttl: Duration,
    #[command(flatten)]
    app: AppArgs,
}

#[derive(Serialize)]
struct Claims {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    channels: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    publish: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<Box<RawValue>>,
    iat: u64,
    exp: u64,
    jti: String,
}

/// Prints the token, and nothing else.
pub fn run(args: TokenArgs) -> anyhow::Result<()> {
    if args.channels.is_empty() && args.publish.is_empty() {
        bail!("say what it is good for: --channels, --publish, or both");
    }
    let info = args.info.map(RawValue::from_string).transpose().context("--info is not JSON")?;
    let app = args.app.resolve()?;
    let secret = app.secret.context("no such app in the configuration: say --secret")?;
    let iat = now_s();
    let claims = Claims {
        channels: args.channels,
        publish: args.publish,
        sub: args.sub,
        info,
        iat,
        exp: iat.saturating_add(args.ttl.as_secs()),
        jti: unique(),
    };
    println!("{}", sign(&app.key, &secret, &serde_json::to_string(&claims)?));
    Ok(())
}

/// Not a secret, only unlike any other: a process' hash keys are random.
fn unique() -> String {
    format!("{:016x}{:016x}", RandomState::new().hash_one(0), RandomState::new().hash_one(1))
}

fn pattern(text: &str) -> Result<String, String> {
    let pattern = ChannelPattern::parse(text, NAME_LEN_MAX).map_err(|bad| bad.to_string())?;
    Ok(pattern.as_str().to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let unit_s = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 60 * 60,
            "d" => 24 * 60 * 60,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(unit_s).filter(|seconds| *seconds > 0)
    };
    parsed().map(Duration::from_secs).ok_or_else(|| "expected a duration such as 90s, 15m, 1h or 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_and_its_unit() {
        let seconds = |text| duration(text).map(|duration| duration.as_secs()).ok();
        assert_eq!(seconds("90s"), Some(90));
        assert_eq!(seconds("15m"), Some(900));
        assert_eq!(seconds("7d"), Some(604_800));
        for bad in ["", "s", "1", "0s", "-1h", "1.5h", "1w", "1é", "99999999999999999999d"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_two_tokens_have_one_id() {
        assert_ne!(unique(), unique());
    }
}
