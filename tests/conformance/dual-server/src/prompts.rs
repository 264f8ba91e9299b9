//! The prompts. One of them asks the user before it is there.
//!
//! They stand apart from the tools because a prompt's result is another one. They never say
//! anything on the way, and never change anything.

use rmcp::model::{
    ContentBlock, GetPromptResult, Prompt, PromptArgument, PromptMessage, ResourceContents, Role,
};

use crate::{
    call::{Call, Stop},
    house::{Change, House},
    question::{Question, word},
    samples::RED_DOT_PNG,
};

const EXTRA: &str = "test_extra_prompt";

pub(crate) fn listed(house: &House) -> Vec<Prompt> {
    let prompt = |name, about, arguments: &[&str]| {
        let argument = |name: &&str| {
            let about = format!("The argument {name}");
            PromptArgument::new(*name)
                .with_description(about)
                .with_required(true)
        };
        Prompt::new(
            name,
            Some(about),
            Some(arguments.iter().map(argument).collect()),
        )
    };
    let mut all = vec![
        prompt("test_simple_prompt", "One sentence", &[]),
        prompt(
            "test_prompt_with_arguments",
            "A sentence with two gaps",
            &["arg1", "arg2"],
        ),
        prompt(
            "test_prompt_with_embedded_resource",
            "A resource and what to do with it",
            &["resourceUri"],
        ),
        prompt(
            "test_prompt_with_image",
            "An image and what to do with it",
            &[],
        ),
        prompt(
            "test_input_required_result_prompt",
            "A sentence with a gap that the user fills",
            &[],
        ),
    ];
    if house.has_extra(Change::Prompts) {
        all.push(prompt(EXTRA, "Comes and goes", &[]));
    }
    all
}

pub(crate) fn exists(house: &House, name: &str) -> bool {
    listed(house).iter().any(|prompt| prompt.name == name)
}

/// The prompt of a name that exists.
pub(crate) async fn get(name: &str, call: &Call) -> Result<GetPromptResult, Stop> {
    let messages = match name {
        "test_prompt_with_arguments" => {
            let words = format!("First {}, then {}.", call.text("arg1"), call.text("arg2"));
            vec![says(words)]
        }
        "test_prompt_with_embedded_resource" => {
            let resource = ResourceContents::text("What is to be read.", call.text("resourceUri"));
            vec![shows(ContentBlock::resource(resource)), says("Read it.")]
        }
        "test_prompt_with_image" => {
            vec![
                shows(ContentBlock::image(RED_DOT_PNG, "image/png")),
                says("Look at it."),
            ]
        }
        "test_input_required_result_prompt" => {
            let question = Question::elicit_text("In what context?", "context");
            let answer = call.ask("user_context", question).await?;
            vec![says(format!(
                "In the context of {}.",
                word(&answer, "context")
            ))]
        }
        _ => vec![says("Say one sentence.")],
    };
    Ok(GetPromptResult::new(messages))
}

fn says(words: impl Into<String>) -> PromptMessage {
    PromptMessage::new_text(Role::User, words)
}

fn shows(content: ContentBlock) -> PromptMessage {
    PromptMessage::new(Role::User, content)
}
