//! Who somebody is: `channel_data` of a presence subscription, `user_data` of a sign-in.
//!
//! Both are read from strings whose signature has been checked, so the mistakes found here are the application's.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::channel::outside_grammar;
use crate::json::{self, BadObject, Text};

/// Characters in a user id, as Pusher documents.
pub const USER_ID_LEN_MAX: usize = 128;

/// The identity that comes with a presence subscription.
#[derive(Debug, Clone)]
pub struct ChannelData {
    /// The user; a number was turned into its digits.
    pub user_id: String,
    /// Whatever the application tells about the user.
    pub user_info: Option<Box<RawValue>>,
}

/// Why `channel_data` names nobody.
#[derive(Debug, thiserror::Error)]
pub enum BadChannelData {
    /// Not the object that was expected.
    #[error("channel_data: {0}")]
    Object(#[from] BadObject),
    /// No `user_id`, or an empty one.
    #[error("channel_data needs a \"user_id\" that is not empty")]
    MissingUserId,
    /// A `user_id` of another type.
    #[error("channel_data: user_id must be a string or a number")]
    UserIdType,
    /// A `user_id` that is too long.
    #[error("channel_data: user_id of {len} characters, at most {USER_ID_LEN_MAX} are allowed")]
    UserIdTooLong {
        /// Characters in it.
        len: usize,
    },
}

impl ChannelData {
    /// Reads `{"user_id":…,"user_info":…}`.
    pub fn parse(text: &str) -> Result<Self, BadChannelData> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(borrow)]
            user_id: Option<&'a RawValue>,
            user_info: Option<Box<RawValue>>,
        }
        let fields: Fields<'_> = json::object(text)?;
        let user_id = user_id(fields.user_id.ok_or(BadChannelData::MissingUserId)?)?;
        match user_id.chars().count() {
            0 => Err(BadChannelData::MissingUserId),
            len if len > USER_ID_LEN_MAX => Err(BadChannelData::UserIdTooLong { len }),
            _ => Ok(Self { user_id, user_info: fields.user_info }),
        }
    }
}

/// A string, or the digits of a number exactly as they were written.
fn user_id(raw: &RawValue) -> Result<String, BadChannelData> {
    match raw.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str(raw.get()).map_err(|error| BadObject::from(error).into()),
        Some(b'-' | b'0'..=b'9') => Ok(raw.get().to_owned()),
        _ => Err(BadChannelData::UserIdType),
    }
}

/// The identity that comes with a sign-in.
#[derive(Debug, Clone)]
pub struct UserData {
    /// The user.
    pub id: String,
    /// Whatever the application tells about the user.
    pub user_info: Option<Box<RawValue>>,
    /// Whose coming and going this user wants to hear of, as long as it was sent.
    pub watchlist: Vec<String>,
}

/// Why `user_data` names nobody.
#[derive(Debug, thiserror::Error)]
pub enum BadUserData {
    /// Not the object that was expected.
    #[error("user_data: {0}")]
    Object(#[from] BadObject),
    /// No `id`, or an empty one.
    #[error("user_data needs an \"id\" that is not empty")]
    MissingId,
    /// An `id` that is too long.
    #[error("user_data: id of {len} characters, at most {USER_ID_LEN_MAX} are allowed")]
    IdTooLong {
        /// Characters in it.
        len: usize,
    },
    /// The id could not end the name of the user's own channel.
    #[error("user_data: {found:?} in the id, only letters, digits and _ - = @ , . ; are allowed")]
    IdCharacter {
        /// The first offending character.
        found: char,
    },
}

impl UserData {
    /// Reads `{"id":"…","user_info":…,"watchlist":[…]}`. A numeric id is refused: pusher-js would not take it back.
    pub fn parse(text: &str) -> Result<Self, BadUserData> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(borrow)]
            id: Option<Text<'a>>,
            user_info: Option<Box<RawValue>>,
            watchlist: Option<Vec<String>>,
        }
        let fields: Fields<'_> = json::object(text)?;
        let id = fields.id.ok_or(BadUserData::MissingId)?.0;
        check_id(&id)?;
        Ok(Self { id: id.into_owned(), user_info: fields.user_info, watchlist: fields.watchlist.unwrap_or_default() })
    }
}

fn check_id(id: &str) -> Result<(), BadUserData> {
    match outside_grammar(id) {
        _ if id.is_empty() => Err(BadUserData::MissingId),
        Some(found) => Err(BadUserData::IdCharacter { found }),
        None if id.len() > USER_ID_LEN_MAX => Err(BadUserData::IdTooLong { len: id.len() }),
        None => Ok(()),
    }
}
