//! One token, one after another: kept until shortly before its end, asked for once however many want
//! it, and not asked for again at once where that came to nothing.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::issuer::Issuer;
use crate::client::caller::Credential;

/// So long before its end a token is no longer used.
const EARLY: Duration = Duration::from_secs(30);
/// How long after a refusal the issuer is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// A place for one token.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Nothing,
    Good(SecretString, Instant),
    /// Why, until when, and which token of a host was refused.
    Refused(String, Instant, Option<[u8; 32]>),
}

impl Held {
    /// The token, for whoever shows `subject` where one is exchanged.
    ///
    /// # Errors
    /// In words, what became of asking for it.
    pub(super) async fn get(
        &self,
        issuer: &Issuer,
        subject: Option<&Arc<Credential>>,
    ) -> Result<SecretString, String> {
        // Held while one is asked for, so that it is asked for once.
        let mut state = self.0.lock().await;
        let mark = subject.map(|subject| subject.mark);
        match &*state {
            State::Good(token, until) if Instant::now() < *until => return Ok(token.clone()),
            // What is said of one token says nothing of the next.
            State::Refused(cause, until, whose) if Instant::now() < *until && *whose == mark => {
                return Err(cause.clone());
            }
            _ => {}
        }
        match issuer.ask(subject.map(|subject| &subject.token)).await {
            Ok((token, lasts)) => {
                let lasts = lasts.saturating_sub(EARLY).max(lasts / 2);
                *state = State::Good(token.clone(), Instant::now() + lasts);
                Ok(token)
            }
            Err(cause) => {
                *state = State::Refused(cause.clone(), Instant::now() + AGAIN, mark);
                Err(cause)
            }
        }
    }

    /// The server does not take this token; another that is here by now stays.
    pub(super) async fn forget(&self, shown: &SecretString) {
        let mut state = self.0.lock().await;
        if matches!(&*state, State::Good(held, _) if held.expose_secret() == shown.expose_secret())
        {
            *state = State::Nothing;
        }
    }

    /// Whether nothing is lost with it: nobody waits for it, and what it holds has ended.
    pub(super) fn is_spent(&self) -> bool {
        let Ok(state) = self.0.try_lock() else {
            return false;
        };
        match &*state {
            State::Nothing => true,
            State::Good(_, until) | State::Refused(_, until, _) => *until <= Instant::now(),
        }
    }
}
