//! How one script becomes the next: by calls, by fields, and now and then by bytes.

use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage as _, Value, prost::Message as _};

use crate::{
    dice::Dice,
    schema::RPCS,
    script::{self, Call, Caller, MESSAGES_MAX, STEPS_MAX, Step},
    values,
    wire::{self, Target},
};

/// Changes bytes as libFuzzer sees fit.
pub type MutateBytes<'a> = &'a mut dyn FnMut(Vec<u8>) -> Vec<u8>;

/// A change of `text`, no longer than `size_max`.
pub fn mutate(text: &str, size_max: usize, dice: &Dice, bytes: MutateBytes<'_>) -> String {
    let steps = script::parse(text);
    // What grew too long is tried again, and in the end is left as it was.
    for _ in 0..8 {
        let mut changed = steps.clone();
        for _ in 0..=dice.below(3) {
            change(&mut changed, dice, bytes);
        }
        let text = script::print(&changed);
        if text.len() <= size_max {
            return text;
        }
    }
    text.to_owned()
}

/// Steps of `first` and of `second`, in their order.
pub fn cross(first: &str, second: &str, size_max: usize, dice: &Dice) -> String {
    let (mut steps, other) = (script::parse(first), script::parse(second));
    steps.truncate(dice.below(steps.len() + 1));
    steps.extend_from_slice(&other[dice.below(other.len() + 1)..]);
    let text = script::print(&steps);
    if text.len() <= size_max { text } else { first.to_owned() }
}

fn change(steps: &mut Vec<Step>, dice: &Dice, bytes: MutateBytes<'_>) {
    let at = dice.below(steps.len());
    match dice.below(20) {
        _ if steps.is_empty() => steps.push(Step::Call(call(dice))),
        0 | 1 if steps.len() < STEPS_MAX => steps.insert(dice.below(steps.len() + 1), Step::Call(call(dice))),
        2 if steps.len() < STEPS_MAX => {
            let wait = *dice.pick(&[1, 60, 3_600, 86_400, 30 * 86_400, 89 * 86_400, 91 * 86_400]);
            steps.insert(dice.below(steps.len() + 1), Step::Wait(wait));
        }
        3 if steps.len() < STEPS_MAX => steps.insert(dice.below(steps.len() + 1), steps[at].clone()),
        4 if steps.len() > 1 => drop(steps.remove(at)),
        5 => {
            let other = dice.below(steps.len());
            steps.swap(at, other);
        }
        _ => match &mut steps[at] {
            Step::Wait(seconds) => *seconds = seconds.saturating_mul(2),
            Step::Call(call) => change_call(call, dice, bytes),
        },
    }
}

fn change_call(call: &mut Call, dice: &Dice, bytes: MutateBytes<'_>) {
    let at = dice.below(call.messages.len());
    match dice.below(20) {
        0 => call.caller = *dice.pick(&Caller::ALL),
        1 => call.rpc = dice.pick(&RPCS),
        2 if call.messages.len() < MESSAGES_MAX => call.messages.push(call.messages[at].clone()),
        3 if call.messages.len() > 1 => drop(call.messages.remove(at)),
        4 | 5 => call.messages[at] = bytes(std::mem::take(&mut call.messages[at])),
        _ => {
            let decoded = DynamicMessage::decode(call.rpc.request.clone(), call.messages[at].as_slice());
            let mut message = decoded.unwrap_or_else(|_| DynamicMessage::new(call.rpc.request.clone()));
            change_message(&mut message, dice, bytes);
            call.messages[at] = message.encode_to_vec();
        }
    }
}

/// A good call of any method.
pub fn call(dice: &Dice) -> Call {
    let rpc = dice.pick(&RPCS);
    let caller = if dice.one_in(3) { *dice.pick(&Caller::ALL) } else { Caller::Admin };
    let org = if caller == Caller::Neighbour { "beta" } else { "acme" };
    let target = Target {
        org: org.to_owned(),
        key: (*dice.pick(&["stock", "walked", "a"])).to_owned(),
        token: "0".repeat(32),
        binding: (*dice.pick(&["stock", "walked"])).to_owned(),
        event: "{{id}}".to_owned(),
    };
    // The walks' own provider keys are none of ours.
    let message = wire::request(rpc.method.path, &target);
    let mut message = DynamicMessage::decode(rpc.request.clone(), message.as_slice()).unwrap();
    crate::schema::texts(&mut message, &mut |_, is_secret, text| {
        if is_secret {
            *text = values::text(dice, true);
        }
    });
    Call { caller, rpc, messages: vec![message.encode_to_vec()] }
}

fn change_message(message: &mut DynamicMessage, dice: &Dice, bytes: MutateBytes<'_>) {
    let fields: Vec<FieldDescriptor> = message.descriptor().fields().collect();
    if fields.is_empty() {
        return;
    }
    let set: Vec<FieldDescriptor> = message.fields().map(|(field, _)| field).collect();
    // What is set already is worth more changes than what is not.
    let field = if !set.is_empty() && dice.one_in(2) { dice.pick(&set) } else { dice.pick(&fields) };
    if !message.has_field(field) || dice.one_in(6) {
        let value = values::whole(dice, field, 0);
        message.set_field(field, value);
    } else if dice.one_in(8) {
        message.clear_field(field);
    } else {
        change_value(message.get_field_mut(field), field, dice, bytes);
    }
}

fn change_value(value: &mut Value, field: &FieldDescriptor, dice: &Dice, bytes: MutateBytes<'_>) {
    match value {
        Value::Message(inner) => change_message(inner, dice, bytes),
        Value::List(values) if !values.is_empty() => {
            let at = dice.below(values.len());
            match dice.below(4) {
                0 => values.push(values::value(dice, field, 0)),
                1 => values.push(values[at].clone()),
                2 => drop(values.remove(at)),
                _ => change_value(&mut values[at], field, dice, bytes),
            }
        }
        Value::Map(_) | Value::List(_) => *value = values::whole(dice, field, 0),
        // A provider key is changed as a whole, so that the canary stays in it.
        Value::String(text) if dice.one_in(3) && field.parent_message().full_name() != "ibyok.v1.SecretValue" => {
            *text = String::from_utf8_lossy(&bytes(std::mem::take(text).into_bytes())).into_owned();
        }
        _ => *value = values::value(dice, field, 0),
    }
}
