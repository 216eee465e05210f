//! From written to checked: defaults, ranges, and what must hold between keys.
//!
//! A complaint names what was expected and points at the value. What was not written is a default, and sound.
//!
//! Not here: the apps (`tenants`).

use super::tenants;
use super::written::{At, Place, Written, WrittenIngest, WrittenTls, Wrong};
use super::{AppSettings, Config, DEVELOPMENT_KEY, TlsFiles, default_data_dir, pipelines, push_stream, redis, role};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use tracing_subscriber::EnvFilter;

/// More than any machine has CPUs; the bound catches a port number in the wrong place.
const LOOPS_MAX: u32 = 1024;
const DAY_S: u32 = 24 * 60 * 60;
const HOUR_S: u32 = 60 * 60;
/// Room for one publication of the default size, its frame, and some escaping.
const BUFFER_BYTES_MIN: u32 = 16 * 1024;
const BUFFER_BYTES_MAX: u32 = 1 << 30;
/// What stands between us and a reader gives up after 60 s of silence, most often.
const QUIET_S_MAX: u32 = 60;

/// Checks all layers, laid over each other. `folder` is where the file is.
pub(super) fn config(written: Written, folder: &Path) -> Result<Config, Wrong> {
    let default = Config::default();
    let listen_place = place_of(&written.listen);
    let admin_place = place_of(&written.admin_listen);
    let seconds = |written, max_s, default| number(written, 1..=max_s, default);
    let buffer = |written, default| number(written, BUFFER_BYTES_MIN..=BUFFER_BYTES_MAX, default);
    let mut config = Config {
        listen: address(written.listen, default.listen)?,
        admin_listen: address(written.admin_listen, default.admin_listen)?,
        loops: number(written.loops, 0..=LOOPS_MAX, default.loops)?,
        log: log(written.log, default.log)?,
        path_prefix: path_prefix(written.path_prefix)?,
        activity_timeout_s: seconds(written.activity_timeout_s, DAY_S, default.activity_timeout_s)?,
        pong_timeout_s: seconds(written.pong_timeout_s, HOUR_S, default.pong_timeout_s)?,
        head_timeout_s: seconds(written.head_timeout_s, HOUR_S, default.head_timeout_s)?,
        drain_s: number(written.drain_s, 0..=HOUR_S, default.drain_s)?,
        connections_max: any(written.connections_max, default.connections_max),
        outbox_bytes_max: buffer(written.outbox_bytes_max, default.outbox_bytes_max)?,
        publish_body_bytes_max: buffer(written.publish_body_bytes_max, default.publish_body_bytes_max)?,
        deflate: any(written.deflate, default.deflate),
        deflate_min_bytes: number(written.deflate_min_bytes, 0..=u32::MAX, default.deflate_min_bytes)?,
        heartbeat_s: seconds(written.heartbeat_s, QUIET_S_MAX, default.heartbeat_s)?,
        longpoll_s: seconds(written.longpoll_s, QUIET_S_MAX, default.longpoll_s)?,
        tls: tls(any(written.tls, WrittenTls::default()))?,
        ..default
    };
    config.data_dir = data_dir(written.data_dir, config.listen.port());
    config.redis = written.redis.map(redis::checked).transpose()?;
    let lists = any(written.stages, BTreeMap::new());
    config.ingest = pipelines::shared(any(written.ingest, WrittenIngest::default()), &lists, folder)?;
    match written.apps.filter(|apps| !apps.value.is_empty()) {
        Some(written) => {
            config.apps = tenants::apps(written.value, &config, &lists)?;
            config.dev = false;
        }
        // Whoever tries it out with Redis has not set that up to sync each write.
        None => config.apps = vec![AppSettings::development(config.data_dir.is_some() && config.redis.is_none())],
    }
    config.push_stream = written.push_stream.map(|written| push_stream::checked(written, &config)).transpose()?;
    config.role = role::checked(written.role, config.redis.is_some())?;
    listeners_differ(&config).map_err(complaint_at(admin_place.or(listen_place.clone())))?;
    development_stays_home(&config).map_err(complaint_at(listen_place))?;
    Ok(config)
}

/// The development app's secret is printed in our documentation: beyond this machine it would protect nothing.
pub(super) fn development_stays_home(config: &Config) -> Result<(), String> {
    let exposed = config.apps.iter().any(|app| app.is_development());
    if !exposed || config.listen.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let remedy = match config.dev {
        true => {
            "configure an app of your own ([[apps]] in fanfare.toml, or FANFARE_APP_ID, FANFARE_APP_KEY and FANFARE_APP_SECRET)"
        }
        false => "give that app a key and a secret of its own",
    };
    Err(format!(
        "{} is not a loopback address, and the development app's secret (key `{DEVELOPMENT_KEY}`) is known to everybody; {remedy}",
        config.listen
    ))
}

fn listeners_differ(config: &Config) -> Result<(), String> {
    // Port 0 is a different one each time.
    match config.listen == config.admin_listen && config.listen.port() != 0 {
        true => Err(format!("`listen` and `admin_listen` are both {}", config.listen)),
        false => Ok(()),
    }
}

/// The defaults break no rule by themselves, so one of the keys concerned was written; the fallback is the file's top.
fn complaint_at(place: Option<Place>) -> impl FnOnce(String) -> Wrong {
    move |message| Wrong::at(place.unwrap_or(Place::Byte(0)), message)
}

fn place_of<T>(written: &Option<At<T>>) -> Option<Place> {
    written.as_ref().map(|at| at.place.clone())
}

/// A value that cannot be wrong.
pub(super) fn any<T>(written: Option<At<T>>, default: T) -> T {
    written.map_or(default, |at| at.value)
}

/// A number within a range, in the type that its users count in.
pub(super) fn number<N: TryFrom<u32>>(
    written: Option<At<u32>>,
    range: RangeInclusive<u32>,
    default: N,
) -> Result<N, Wrong> {
    let Some(At { value, place }) = written else {
        return Ok(default);
    };
    let sound = range.contains(&value).then(|| N::try_from(value).ok());
    sound.flatten().ok_or_else(|| {
        let (min, max) = range.into_inner();
        let message = format!("expected a whole number from {min} to {max}, found {value}");
        Wrong::at(place, message)
    })
}

/// An address and its port.
pub(super) fn address(written: Option<At<String>>, default: SocketAddr) -> Result<SocketAddr, Wrong> {
    let Some(At { value, place }) = written else {
        return Ok(default);
    };
    parse_address(&value).ok_or_else(|| {
        let message = format!("expected an address and a port such as \"127.0.0.1:6001\", found {value:?}");
        Wrong::at(place, message)
    })
}

/// Names are not looked up, as they may move between reloads; but everybody's `localhost` is the same.
fn parse_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().ok()?))),
        None => text.parse().ok(),
    }
}

/// An empty path is none: nothing is to be written. Nor is it for a server on any free port, which none will come back to.
fn data_dir(written: Option<At<String>>, port: u16) -> Option<PathBuf> {
    match written {
        Some(at) => Some(PathBuf::from(at.value)).filter(|path| !path.as_os_str().is_empty()),
        None => (port != 0).then(|| default_data_dir(port)),
    }
}

fn tls(written: WrittenTls) -> Result<Option<TlsFiles>, Wrong> {
    match (written.cert, written.key) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert: file(cert)?, key: file(key)? })),
        (Some(cert), None) => Err(Wrong::at(cert.place, "a certificate needs its `key` too")),
        (None, Some(key)) => Err(Wrong::at(key.place, "a key needs its `cert` too")),
        (None, None) => Ok(None),
    }
}

/// A file that is there, at least now.
pub(super) fn file(At { value, place }: At<String>) -> Result<PathBuf, Wrong> {
    match std::fs::File::open(Path::new(&value)) {
        Ok(_) => Ok(value.into()),
        Err(error) => Err(Wrong::at(place, format!("cannot read {value:?}: {error}"))),
    }
}

fn log(written: Option<At<String>>, default: String) -> Result<String, Wrong> {
    let Some(At { value, place }) = written else {
        return Ok(default);
    };
    match EnvFilter::try_new(&value) {
        Ok(_) => Ok(value),
        Err(error) => {
            let message = format!("expected a log filter such as \"info\" or \"info,fanfare=debug\": {error}");
            Err(Wrong::at(place, message))
        }
    }
}

/// `/realtime/` and `/realtime` are the same prefix, and `/` is none.
fn path_prefix(written: Option<At<String>>) -> Result<String, Wrong> {
    let Some(At { value, place }) = written else {
        return Ok(String::new());
    };
    let prefix = value.trim_end_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.~".contains(c);
    if prefix.is_empty() || (prefix.starts_with('/') && prefix.chars().all(plain)) {
        return Ok(prefix.to_owned());
    }
    let message = format!("expected a path such as \"/realtime\", found {value:?}");
    Err(Wrong::at(place, message))
}
