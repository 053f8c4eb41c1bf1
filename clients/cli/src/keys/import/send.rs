//! The stream of an import. Where it breaks off it is opened again for what was not answered yet;
//! the request ids see to it that nothing is stored twice.

use std::sync::Arc;

use futures_util::stream;
use ibyok_client::pb;
use indicatif::ProgressBar;
use tonic::Status;

use super::{record::Record, report::Report};
use crate::{
    failure::{Exit, Failure},
    request_id,
    session::Session,
    streams::{Patience, progress_bar},
};

/// How the keys are to be taken.
pub(super) struct Options {
    pub(super) dry_run: bool,
    pub(super) skip_existing: bool,
    pub(super) import_id: String,
    /// `orgs/{org}`, or empty.
    pub(super) parent: String,
}

impl Options {
    fn request(&self, record: &Record) -> pb::ImportKeysRequest {
        // Checking has no effect that could double, and is to see what is there now.
        let request_id = match self.dry_run {
            true => String::new(),
            false => self.request_id(record),
        };
        let key = pb::CreateKeyRequest {
            parent: self.parent.clone(),
            validate_only: self.dry_run,
            request_id,
            ..record.wire()
        };
        pb::ImportKeysRequest { key: Some(key), skip_existing: self.skip_existing }
    }

    /// Of all that is no secret: a key that stands for something else now is another request, and is
    /// told that its name is taken.
    fn request_id(&self, record: &Record) -> String {
        let parts = [vec![self.import_id.clone(), self.parent.clone()], record.public_parts()].concat();
        request_id::derived("import", &parts.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// Sends all, and tells the report of each answer.
pub(super) async fn send(
    records: Vec<Record>,
    options: Options,
    session: &Session,
    report: &mut Report,
) -> Result<(), Failure> {
    let (records, options) = (Arc::new(records), Arc::new(options));
    let (progress, mut patience) = (progress_bar(records.len() as u64), Patience::default());
    let mut answered = 0;
    loop {
        let before = answered;
        let ended = stream(&records, &mut answered, &options, session, report, &progress).await;
        if answered == records.len() {
            progress.finish_and_clear();
            return Ok(());
        }
        let broken = ended.err().unwrap_or_else(|| Status::unavailable("the server ended the import"));
        if !patience.again(&broken, answered > before).await {
            progress.finish_and_clear();
            return Err(broken_off(broken, answered, records.len()));
        }
    }
}

/// One stream, from the first record that has no answer on. Answers come in order.
async fn stream(
    records: &Arc<Vec<Record>>,
    answered: &mut usize,
    options: &Arc<Options>,
    session: &Session,
    report: &mut Report,
    progress: &ProgressBar,
) -> Result<(), Status> {
    let first = *answered;
    // Each message is made when the connection has room for it, so that few copies of keys are about.
    let (sent, how) = (Arc::clone(records), Arc::clone(options));
    let requests =
        stream::iter((first..records.len()).filter_map(move |n| sent.get(n).map(|record| how.request(record))));
    let mut answers = session.client.key_vault().import_keys(requests).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        let place = usize::try_from(answer.index).ok().map(|index| first + index);
        let Some(record) = place.filter(|place| place == answered).and_then(|place| records.get(place)) else {
            return Err(Status::data_loss("the answers are not in the order of the keys"));
        };
        report.answered(record, answer);
        *answered += 1;
        progress.inc(1);
    }
    Ok(())
}

fn broken_off(status: Status, answered: usize, all: usize) -> Failure {
    let failure = Failure::from(status);
    if answered == 0 {
        return failure;
    }
    let failure = failure.about(&format!("the import broke off after {answered} of {all} keys"));
    let next = "run the same command again: it goes on, and what is stored is not stored twice";
    match failure.exit {
        Exit::Unavailable | Exit::Internal => failure.next(next),
        _ => failure.and_then_do(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(import_id: &str) -> Options {
        Options { dry_run: false, skip_existing: false, import_id: import_id.into(), parent: "orgs/a".into() }
    }
    fn request_id(options: &Options, id: &str, secret: &str) -> String {
        let mut record = Record { id: id.into(), ..Default::default() };
        record.set("secret", secret).unwrap();
        options.request(&record).key.unwrap().request_id
    }

    #[test]
    fn the_request_id_is_of_all_but_the_secret() {
        let id = request_id(&options(""), "one", "canary");
        assert_eq!(id, request_id(&options(""), "one", "another"));
        assert_ne!(id, request_id(&options(""), "two", "canary"));
        assert_ne!(id, request_id(&options("again"), "one", "canary"));
        let mut other = Record { id: "one".into(), ..Default::default() };
        other.set("labels", "a=b").unwrap();
        assert_ne!(id, options("").request_id(&other));
        assert_ne!(id, request_id(&Options { parent: "orgs/b".into(), ..options("") }, "one", "canary"));
        assert_eq!(request_id(&Options { dry_run: true, ..options("") }, "one", "canary"), "");
    }

    #[test]
    fn a_cut_says_how_to_go_on() {
        let text = broken_off(Status::unavailable(""), 3, 9).to_string();
        assert!(text.contains("broke off after 3 of 9 keys") && text.contains("run the same command again"), "{text}");
    }
}
