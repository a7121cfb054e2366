//! What the core says to wishes, in words.

use raftwerk_raft::reconfig::ChangeError;
use raftwerk_raft::{Reconfigured, Refusal, Transfer, TransferRefusal};

use super::trace::configuration;

pub(crate) fn reconfigured(outcome: &Reconfigured) -> String {
    match outcome {
        Reconfigured::Refused(refusal) => format!("refuses the change: {}", self::refusal(*refusal)),
        Reconfigured::Planned(to) => format!("would go to {}", configuration(to)),
        Reconfigured::Unchanged(index) => format!("has nothing to change since {index}"),
        Reconfigured::Admitting => "waits for newcomers".to_owned(),
        Reconfigured::Started(index) => format!("begins the change at {index}"),
        Reconfigured::Abandoned(refusal) => format!("abandons the change: {}", self::refusal(*refusal)),
    }
}

fn refusal(refusal: Refusal) -> String {
    match refusal {
        Refusal::NotLeader { leader: Some(leader) } => format!("{} leads", leader.0),
        Refusal::NotLeader { leader: None } => "it knows no leader".to_owned(),
        Refusal::NotReady => "nothing of its term is committed yet".to_owned(),
        Refusal::Transferring => "the lead is on its way to another".to_owned(),
        Refusal::InProgress(index) => format!("the one at {index} is under way"),
        Refusal::Stale(index) => format!("the configuration is of {index}"),
        Refusal::NotCaughtUp(node) => format!("{} has not caught up", node.0),
        Refusal::QuorumAtRisk => "no majority of the new voters was heard lately".to_owned(),
        Refusal::TermExhausted => "too many were added in its term".to_owned(),
        Refusal::Change(error) => match error {
            ChangeError::AlreadyJoint => "it is joint already",
            ChangeError::SimpleInJoint => "it is joint",
            ChangeError::NotJoint => "it is not joint",
            ChangeError::NoVoters => "there are no voters",
            ChangeError::AllVotersRemoved => "no voter would be left",
            ChangeError::ManyVoters => "more than one voter changes",
            ChangeError::TooMany => "too many replicas",
            ChangeError::OtherLog(_) => "one takes part with another log",
            ChangeError::OtherKind(_) => {
                "who holds no payloads has to go first, to hold them; and the other way about"
            }
            ChangeError::TooManyWitnesses => "too few voters would hold payloads",
        }
        .to_owned(),
    }
}

pub(crate) fn transfer(outcome: Transfer) -> String {
    match outcome {
        Transfer::Abandoned(to) => format!("gives up the transfer to {}", to.0),
        Transfer::Refused(unfit) => format!("refuses the transfer: {}", self::unfit(unfit)),
    }
}

fn unfit(unfit: TransferRefusal) -> String {
    match unfit {
        TransferRefusal::NotLeader { leader: Some(leader) } => format!("{} leads", leader.0),
        TransferRefusal::NotLeader { leader: None } => "it knows no leader".to_owned(),
        TransferRefusal::LeadsAlready => "it leads already".to_owned(),
        TransferRefusal::NotAVoter => "no voter".to_owned(),
        TransferRefusal::Witness => "a witness".to_owned(),
        TransferRefusal::Inactive => "not heard lately".to_owned(),
        TransferRefusal::TooFarBehind => "it waits for a snapshot".to_owned(),
        TransferRefusal::InProgress(to) => format!("one to {} is under way", to.0),
    }
}
