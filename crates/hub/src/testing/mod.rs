//! The promises that every [`Broker`](crate::Broker) and [`PresenceStore`](crate::PresenceStore) keeps, as tests that an
//! implementation runs on itself.
//!
//! [`broker_contract!`](crate::broker_contract) and [`presence_contract!`](crate::presence_contract) make a test of each
//! promise, so that an implementation cannot leave one out. Only tokio's clock is asked for the time, and all waits are
//! short: a test with paused time takes none, one against a real server a few seconds.

pub mod broker;
pub mod history;
pub mod presence;

/// A test of each promise of a broker: `broker_contract!(#[tokio::test(start_paused = true)] start);` where `start` is
/// an async function from `Arc<dyn BrokerEvents>` to the `Arc<dyn Broker>` that delivers to it.
/// `broker_contract!(in_turn start);`, in an async function, tests them one after another.
#[macro_export]
macro_rules! broker_contract {
    ($($how:tt)*) => {
        $crate::contract! { [$($how)*] broker:
            publications_arrive_once_and_in_order
            a_publication_arrives_as_it_was_published
            stored_publications_have_positions_that_grow_by_one
            positions_follow_delivery_order_whoever_publishes
            publications_of_one_post_keep_their_order
            a_transient_publication_has_no_position_and_is_not_kept
            channels_are_apart
            the_newest_stored_publication_is_served_until_it_expires
            each_stored_publication_is_served_for_its_own_time
            who_subscribes_twice_hears_once
            a_channel_is_heard_again_after_unsubscribe_and_subscribe
            close_delivers_what_was_accepted_and_refuses_the_rest
        }
        $crate::contract! { [$($how)*] history:
            a_history_holds_what_was_kept_in_order
            a_history_is_read_in_parts
            the_present_is_a_place_to_go_on_from
            a_cursor_resumes_other_channels_by_its_stamp
            what_is_still_being_shown_is_not_settled
            what_a_rule_drops_is_not_called_recovered
            a_publication_that_is_not_kept_ends_what_can_be_recovered
            an_app_over_its_budget_loses_its_oldest
            a_cursor_that_cannot_be_trusted_recovers_nothing
            a_repeat_returns_the_first_mark_and_delivers_nothing
            a_key_is_known_in_its_channel_until_its_window_ends
            of_equal_keys_at_once_one_is_published
            a_cleared_channel_goes_on_in_a_new_epoch
            subscribing_before_reading_misses_nothing
            a_publisher_is_told_whether_anybody_was_there
            a_share_of_the_window_is_given_back_when_all_have_been_shown
        }
    };
}

/// A test of each promise of a presence store: `presence_contract!(#[tokio::test] start);` where `start` is an async
/// function to an empty `Arc<dyn PresenceStore>`.
#[macro_export]
macro_rules! presence_contract {
    ($($how:tt)*) => {
        $crate::contract! { [$($how)*] presence:
            the_first_join_of_a_user_shows_the_roster_with_the_joiner_in_it
            a_user_is_a_member_while_any_of_its_sockets_is
            a_socket_that_joins_twice_is_counted_once
            the_roster_is_in_order_of_joining
            every_change_raises_the_version_even_when_a_channel_begins_again
            each_change_raises_the_version_by_one_while_somebody_is_there
            leaving_without_having_joined_changes_nothing
            a_full_channel_takes_only_users_who_are_in_it
            a_channel_that_may_have_no_members_lets_nobody_in
            members_and_channels_of_apps_are_apart
            counts_show_subscribers_and_distinct_users
            channels_are_found_by_prefix_and_in_order
            a_user_is_online_while_any_of_its_sockets_is
            who_is_online_is_answered_in_the_order_asked
        }
    };
}

/// One test for each name; what the two contracts have in common.
#[doc(hidden)]
#[macro_export]
macro_rules! contract {
    ([#[$test:meta] $start:path] $suite:ident: $($promise:ident)+) => {
        $(
            #[$test]
            async fn $promise() {
                $crate::testing::$suite::$promise($start).await;
            }
        )+
    };
    ([in_turn $start:path] $suite:ident: $($promise:ident)+) => {
        $(
            println!("{}", stringify!($promise));
            $crate::testing::$suite::$promise($start).await;
        )+
    };
}
