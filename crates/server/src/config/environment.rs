//! The layer that the environment makes: one variable for each top-level key, three that define an
//! app together, and one for the Redis servers.
//!
//! Not here: reading the process' environment, which `config` does, so that tests can make one up.

use super::error::{edits, nearest};
use super::redis;
use super::written::{At, Id, Place, Written, WrittenApp, WrittenKey, Wrong};
use std::collections::BTreeMap;

/// A name that is this few edits from one of ours is taken for a mistyped one.
const TYPING_ERRORS_MAX: usize = 2;

/// The id, the key and the secret of an app that needs no file.
const APP: [&str; 3] = ["FANFARE_APP_ID", "FANFARE_APP_KEY", "FANFARE_APP_SECRET"];

type Variables = BTreeMap<String, String>;

/// Reads every variable of ours. Names that resemble none are left alone, as others use the prefix too: Kubernetes
/// sets `FANFARE_SERVICE_HOST` and its like for a service named `fanfare`.
pub(super) fn written(variables: &Variables, file_has_apps: bool) -> Result<Written, Wrong> {
    let mut written = Written::default();
    for (name, text) in variables {
        if name.starts_with("FANFARE_") && !written.set_variable(name, text)? {
            refuse_mistyped(name)?;
        }
    }
    written.redis = variables.get(redis::VARIABLE).map(|text| redis::from_variable(text));
    written.apps = app(variables, file_has_apps)?.map(|app| At { place: app.place.clone(), value: vec![app] });
    Ok(written)
}

fn refuse_mistyped(name: &str) -> Result<(), Wrong> {
    let known = [Written::VARIABLES, &APP, &[redis::VARIABLE]].concat();
    match nearest(name, &known) {
        Some(near) if (1..=TYPING_ERRORS_MAX).contains(&edits(name, near)) => {
            let message = format!("unknown variable; the nearest known one is `{near}`");
            Err(Wrong::at(Place::Variable(name.to_owned()), message))
        }
        _ => Ok(()),
    }
}

/// The app that the three variables define, if any of them is set.
fn app(variables: &Variables, file_has_apps: bool) -> Result<Option<At<WrittenApp>>, Wrong> {
    let Some(set) = APP.iter().find(|name| variables.contains_key(**name)) else {
        return Ok(None);
    };
    let place = Place::Variable((*set).to_owned());
    if file_has_apps {
        let message = "defines an app, but the file lists apps already; use one or the other";
        return Err(Wrong::at(place, message));
    }
    let value = |name: &'static str| {
        let missing = || Wrong::at(place.clone(), format!("defines an app, which needs `{name}` too"));
        variables.get(name).cloned().ok_or_else(missing)
    };
    let [id, key, secret] = APP;
    let value = WrittenApp {
        id: Some(at(id, Id(value(id)?))),
        keys: Some(at(
            key,
            vec![at(key, WrittenKey { key: Some(at(key, value(key)?)), secret: Some(at(secret, value(secret)?)) })],
        )),
        ..WrittenApp::default()
    };
    Ok(Some(At { value, place }))
}

fn at<T>(variable: &str, value: T) -> At<T> {
    let place = Place::Variable(variable.to_owned());
    At { value, place }
}
