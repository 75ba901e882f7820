use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use burn_apb::text::chat_template::{
    ChatMessage, ChatTemplate, ChatTemplateError, ChatTemplateFiles, ChatTemplates, RenderOptions,
    TemplateValue,
};
use serde_json::Value;

fn fixture(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text");
    std::fs::read_to_string(path.join(name)).unwrap()
}

pub fn template(name: &str) -> ChatTemplate {
    let tokens: Value = serde_json::from_str(&fixture("special_tokens.json")).unwrap();
    let mut template = ChatTemplate::parse(&fixture(&format!("templates/{name}.jinja"))).unwrap();
    for (variable, token) in tokens[name].as_object().unwrap() {
        template = template.with_special_token(variable, token.as_str().unwrap());
    }
    template
}

fn render(template: &ChatTemplate, case: &Value) -> Result<String, ChatTemplateError> {
    let messages: Vec<ChatMessage> = serde_json::from_value(case["messages"].clone()).unwrap();
    let mut given = case["options"].as_object().unwrap().clone();
    let mut list = |name: &str| match given.remove(name) {
        Some(Value::Array(items)) => Some(items),
        _ => None,
    };
    let (tools, documents) = (list("tools"), list("documents"));
    let add_generation_prompt = given.remove("add_generation_prompt") == Some(true.into());
    let variables = given.into_iter();
    let options = RenderOptions {
        add_generation_prompt,
        tools,
        documents,
        variables: variables
            .map(|(name, value)| (name, value.into()))
            .collect(),
        ..at_noon()
    };
    template.render(&messages, &options)
}

/// 2024-07-26 12:34:56, as in render.py.
fn at_noon() -> RenderOptions {
    RenderOptions {
        now: Some(UNIX_EPOCH + Duration::from_secs(1_721_997_296)),
        utc_offset: Some(0),
        ..RenderOptions::default()
    }
}

fn ask(template: &ChatTemplate) -> String {
    let messages = [
        ChatMessage::new("system", "Answer from the text."),
        ChatMessage::new("user", "A text.\n\nWhat is it?"),
    ];
    let options = RenderOptions {
        add_generation_prompt: true,
        ..RenderOptions::default()
    };
    template.render(&messages, &options).unwrap()
}

// The four strings below are Jinja2 3.1.6's, rendered with the settings of transformers; see
// tests/fixtures/text/README.md.

#[test]
fn smollm2_renders_as_jinja2_does() {
    assert_eq!(
        ask(&template("smollm2")),
        "<|im_start|>system\nAnswer from the text.<|im_end|>\n<|im_start|>user\nA text.\n\nWhat is \
         it?<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn qwen2_5_renders_as_jinja2_does() {
    assert_eq!(
        ask(&template("qwen2.5")),
        "<|im_start|>system\nAnswer from the text.<|im_end|>\n<|im_start|>user\nA text.\n\nWhat is \
         it?<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn qwen3_renders_as_jinja2_does() {
    assert_eq!(
        ask(&template("qwen3")),
        "<|im_start|>system\nAnswer from the text.<|im_end|>\n<|im_start|>user\nA text.\n\nWhat is \
         it?<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn llama3_1_renders_as_jinja2_does() {
    assert_eq!(
        ask(&template("llama3.1")),
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nAnswer from the \
         text.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nA text.\n\nWhat is \
         it?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    );
}

/// Tools, several turns, thinking, spaces, other scripts, and a template of rarer features.
#[test]
fn every_case_renders_as_jinja2_does() {
    let cases: Value = serde_json::from_str(&fixture("cases.json")).unwrap();
    let expected: Value = serde_json::from_str(&fixture("expected.json")).unwrap();
    let mut compared = 0;
    for (name, outputs) in expected.as_object().unwrap() {
        let template = template(name);
        for case in cases.as_array().unwrap() {
            let case_name = case["name"].as_str().unwrap();
            let rendered = render(&template, case)
                .unwrap_or_else(|error| panic!("{name}, {case_name}: {error}"));
            let expected = outputs[case_name].as_str().unwrap();
            assert_eq!(rendered, expected, "{name}, {case_name}");
            compared += 1;
        }
    }
    assert_eq!(compared, 35);
}

/// What Jinja2 makes of small templates, one class of the language after the other; those that
/// fail there have no text.
#[test]
fn the_language_is_jinja2s() {
    let classes: Value = serde_json::from_str(&fixture("language.json")).unwrap();
    let mut wrong = Vec::new();
    let mut compared = 0;
    for (class, cases) in classes.as_object().unwrap() {
        for (source, expected) in cases.as_object().unwrap() {
            let messages = [ChatMessage::new("user", "x")];
            let rendered = ChatTemplate::parse(source)
                .and_then(|template| template.render(&messages, &at_noon()));
            if rendered.as_deref().ok() != expected.as_str() {
                wrong.push(format!("{class}: {source}\n  {expected}\n  {rendered:?}"));
            }
            assert!(!matches!(rendered, Err(ChatTemplateError::Internal { .. })));
            compared += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 1700);
}

#[test]
fn integers_of_any_size_are_variables() {
    let template = ChatTemplate::parse("{{ n }} {{ n + 1 }} {{ l | tojson }} {{ f }}").unwrap();
    let variables = [
        ("n", "123456789012345678901234567890"),
        ("l", "[18446744073709551616, {\"a\": NaN}]"),
        ("f", "1.0"),
    ];
    let options = RenderOptions {
        variables: variables
            .map(|(name, json)| (name.to_owned(), json.parse::<TemplateValue>().unwrap()))
            .into(),
        ..RenderOptions::default()
    };
    assert_eq!(
        template.render(&[], &options).unwrap(),
        "123456789012345678901234567890 123456789012345678901234567891 [18446744073709551616, \
         {\"a\": NaN}] 1.0"
    );
}

#[test]
fn messages_reach_the_template_with_all_their_keys() {
    let source = "{% for m in messages %}{{ m }}\n{% endfor %}{{ tools }} {{ documents }} {{ x }}";
    let messages: Vec<ChatMessage> = serde_json::from_str(
        r#"[{"content": [{"type": "text", "text": "a"}], "role": "user", "name": "Ann"},
            {"role": "assistant", "content": null, "reasoning_content": "r", "tool_calls": [{"id": "1"}]},
            {"role": "tool", "tool_call_id": "1", "content": "c", "other": 1.0}]"#,
    )
    .unwrap();
    let template = ChatTemplate::parse(source).unwrap();
    let mut options = RenderOptions::default();
    assert!(
        template
            .render(&messages, &options)
            .unwrap()
            .ends_with("None None ")
    );
    options.tools = Some(vec![serde_json::json!({"name": "f"})]);
    options.documents = Some(Vec::new());
    options.variables.insert("x".to_owned(), false.into());
    assert_eq!(
        template.render(&messages, &options).unwrap(),
        "{'content': [{'type': 'text', 'text': 'a'}], 'role': 'user', 'name': 'Ann'}\n{'thinking': \
         'r', 'role': 'assistant', 'reasoning_content': 'r', 'tool_calls': [{'id': '1'}]}\n{'role': \
         'tool', 'tool_call_id': '1', 'content': 'c', 'other': 1.0}\n[{'name': 'f'}] [] False"
    );
    options
        .variables
        .insert("messages".to_owned(), false.into());
    let error = template.render(&messages, &options).unwrap_err();
    assert!(matches!(error, ChatTemplateError::ReservedVariable { name } if name == "messages"));
}

#[test]
fn templates_are_chosen_as_transformers_does() {
    let config = r#"{"bos_token": "<s>", "extra_special_tokens": {"image_token": "<i>"},
        "chat_template": {"default": "d{{ image_token }}", "tool_use": "t", "rag": "{% if"}}"#;
    let read = |files: &ChatTemplateFiles| ChatTemplates::read(files).unwrap();
    let text = |templates: &ChatTemplates, name: Option<&str>, tools: bool| {
        let template = templates.select(name, tools)?;
        template.render(&[], &RenderOptions::default())
    };
    let templates = read(&ChatTemplateFiles {
        tokenizer_config: Some(config),
        ..ChatTemplateFiles::default()
    });
    assert_eq!(text(&templates, None, false).unwrap(), "d<i>");
    assert_eq!(text(&templates, None, true).unwrap(), "t");
    assert_eq!(text(&templates, Some("default"), true).unwrap(), "d<i>");
    assert!(matches!(
        text(&templates, Some("rag"), false),
        Err(ChatTemplateError::Syntax { line: 1, .. })
    ));
    assert!(matches!(
        text(&templates, Some("x"), false),
        Err(ChatTemplateError::NoSuchTemplate { names, .. }) if names == ["default", "rag", "tool_use"]
    ));

    // Files of their own replace all of the configuration.
    let additional = [("tool_use".to_owned(), "f".to_owned())];
    let templates = read(&ChatTemplateFiles {
        jinja: Some("j\r\n{{ bos_token }}"),
        additional: &additional,
        tokenizer_config: Some(config),
        chat_template_json: Some(r#"{"chat_template": "p"}"#),
    });
    assert_eq!(
        templates.names().collect::<Vec<_>>(),
        ["default", "tool_use"]
    );
    assert_eq!(text(&templates, None, false).unwrap(), "j\n<s>");
    let templates = read(&ChatTemplateFiles {
        additional: &additional,
        ..ChatTemplateFiles::default()
    });
    assert!(matches!(
        text(&templates, None, false),
        Err(ChatTemplateError::NoDefault { names }) if names == ["tool_use"]
    ));
    let templates = read(&ChatTemplateFiles {
        chat_template_json: Some(r#"{"chat_template": "p"}"#),
        tokenizer_config: Some("{}"),
        ..ChatTemplateFiles::default()
    });
    assert_eq!(text(&templates, None, false).unwrap(), "p");
}

fn render_source(source: &str) -> Result<String, ChatTemplateError> {
    let messages = [ChatMessage::new("user", "Hello")];
    ChatTemplate::parse(source)?.render(&messages, &RenderOptions::default())
}

/// Each of these would take minutes or gigabytes if it were let.
#[test]
fn hostile_templates_end_with_an_error() {
    let doubling = "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}";
    let lists = "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}";
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".to_owned(),
        "{% for i in range(60000) %}{{ messages }}{% endfor %}".to_owned(),
        "{% for i in range(60000) %}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
         aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
         aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
         aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
         aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
         aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
         {% endfor %}"
            .to_owned(),
        "{{ 'a' * 100000000 }}".to_owned(),
        "{{ [0] * 100000000 }}".to_owned(),
        "{% set x = 'a' * 100000000 %}".repeat(1000),
        "{% set x = [0] * (9999 * 9999) %}".repeat(1000),
        format!("{doubling}{{% set ns.s = ns.s ~ ns.s %}}{{% endfor %}}"),
        format!("{doubling}{{% set ns.s = ns.s + ns.s %}}{{% endfor %}}"),
        format!("{doubling}{{% set ns.s = ns.s | replace('a', ns.s) %}}{{% endfor %}}"),
        format!("{doubling}{{% set ns.s = ns.s.replace('a', ns.s) %}}{{% endfor %}}"),
        format!("{doubling}{{% set ns.s = [ns.s, ns.s] | join(ns.s) %}}{{% endfor %}}"),
        format!("{doubling}{{% set ns.s = ns.s.join([ns.s, ns.s]) %}}{{% endfor %}}"),
        format!("{doubling}{{% set ns.s %}}{{{{ ns.s }}}}{{{{ ns.s }}}}{{% endset %}}{{% endfor %}}"),
        format!("{doubling}{{% set ns.s = '%s%s' | format(ns.s, ns.s) %}}{{% endfor %}}"),
        format!("{lists}{{% set ns.s = ns.s + ns.s %}}{{% endfor %}}{{{{ ns.s == ns.s }}}}"),
        format!("{lists}{{% set ns.s = [ns.s, ns.s] %}}{{% endfor %}}{{{{ ns.s }}}}"),
        format!("{lists}{{% set ns.s = (ns.s, ns.s) %}}{{% endfor %}}{{{{ ns.s }}}}"),
        format!("{lists}{{% set ns.s = {{'a': ns.s, 'b': ns.s}} %}}{{% endfor %}}{{{{ ns.s }}}}"),
        format!("{lists}{{% set ns.s = dict(a=ns.s, b=ns.s) %}}{{% endfor %}}{{{{ ns.s | tojson }}}}"),
        format!("{lists}{{% set ns.s = ns.s | chain(ns.s) %}}{{% endfor %}}{{{{ ns.s | length }}}}"),
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns.a }}".to_owned(),
        "{% set a = namespace(l=(1,)) %}{% set b = namespace(l=(1,)) %}{% for i in range(60) %}\
         {% set a.l = (a.l, a.l) %}{% set b.l = (b.l, b.l) %}{% endfor %}{{ a.l == b.l }}"
            .to_owned(),
        format!("{lists}{{% set ns.s = (ns.s, ns.s) %}}{{% endfor %}}{{{{ {{ns.s: 1}} }}}}"),
        "{{ 2 ** 100000000 }}".to_owned(),
        "{{ 10 ** 4000 * 10 ** 4000 * 10 ** 4000 }}".to_owned(),
        "{{ '%0999999999d' % 1 }}".to_owned(),
        "{{ 'a'.center(1000000000) }}".to_owned(),
        "{{ 'a' | center(1000000000) }}".to_owned(),
        "{{ '\t'.expandtabs(1000000000) }}".to_owned(),
        "{{ [1] | batch(1000000000, 'x') | list }}".to_owned(),
        "{{ [1] | slice(1000000000) | list }}".to_owned(),
        "{{ ('a' * 1000000) | wordwrap(1) | length }}".to_owned(),
        "{{ strftime_now('%1000000000d') }}".to_owned(),
        "{% for i in range(90000) %}{{ 'b' in 'a' * 1000000 }}{% endfor %}".to_owned(),
        "{% set s = 'a' * 1000000 %}{% for i in range(90000) %}{{ 'b' in s }}{% endfor %}".to_owned(),
        "{% set ns = namespace(a=[]) %}{% for i in range(60000) %}{% set ns.a = [ns.a] %}{% endfor %}"
            .to_owned(),
        "{{ 'a' | indent(1000000000000) }}".to_owned(),
        "{{ '%1000000000d' | format(1) }}{{ '%*d' | format(1000000000, 1) }}".to_owned(),
        "{{ '{:1000000000}'.format(1) }}".to_owned(),
        "{{ messages | tojson(indent=1000000000) }}".to_owned(),
        "{{ range(1000000000) | list }}".to_owned(),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}".to_owned(),
        "{% block a %}{{ self.a() }}{% endblock %}".to_owned(),
        "{{ 1 is divisibleby 0 }}".to_owned(),
        "{% include 'chat_template' %}".to_owned(),
        "{% extends 'chat_template' %}".to_owned(),
        format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(10_000)),
        format!("{{{{ {}1 }}}}", "a+".repeat(30_000)),
        format!("{{{{ a{} }}}}", ".b".repeat(30_000)),
        format!("{{{{ {}1 }}}}", "a+".repeat(2_000)),
        format!("{{{{ {}1 }}}}", "1+".repeat(2_000) + "a~".repeat(40).as_str() + "1//0~"),
        format!("{{{{ a{} }}}}", ".b".repeat(2_000)),
        "{% if a %}".repeat(10_000),
        format!("{{% if a %}}{}{{% endif %}}{{{{ 1 // 0 }}}}", "{% elif b %}".repeat(10_000)),
        "a".repeat(200_000),
    ] {
        let shown: String = source.chars().take(120).collect();
        match render_source(&source) {
            Err(
                ChatTemplateError::Limit { .. }
                | ChatTemplateError::Render { .. }
                | ChatTemplateError::Syntax { .. }
                | ChatTemplateError::TooLarge { .. },
            ) => {}
            other => panic!("{shown}\n{:?}", other.map(|text| text.len())),
        }
    }
}

#[test]
fn errors_say_what_and_where() {
    let error = render_source("a\n\n{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert!(
        matches!(&error, ChatTemplateError::Raised { message } if message == "roles must alternate")
    );
    let error = render_source("a\n{% for %}").unwrap_err();
    assert!(
        matches!(error, ChatTemplateError::Syntax { line: 2, .. }),
        "{error}"
    );
    let error = render_source("a\n\n{{ messages.nothing.more }}").unwrap_err();
    assert!(
        matches!(error, ChatTemplateError::Render { line: 3, .. }),
        "{error}"
    );
    assert!(
        render_source("{{ 'a' | nosuchfilter }}")
            .unwrap_err()
            .to_string()
            .contains("nosuchfilter")
    );
}

#[test]
fn templates_are_found_in_a_models_files() {
    let read = ChatTemplate::from_texts;
    assert_eq!(read(None, None).unwrap(), None);
    let none = r#"{"bos_token": "<s>", "chat_template": null}"#;
    assert_eq!(read(None, Some(none)).unwrap(), None);

    let named = r#"{"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": null,
        "chat_template": [{"name": "rag", "template": "rag"}, {"name": "default", "template": "{{ bos_token }}d"}]}"#;
    let template = read(None, Some(named)).unwrap().unwrap();
    assert_eq!(
        template.render(&[], &RenderOptions::default()).unwrap(),
        "<s>d"
    );
    assert_eq!(
        ChatTemplate::from_tokenizer_config(named).unwrap(),
        Some(template)
    );

    // A file of its own comes before the field.
    let template = read(Some("{{ bos_token }}j\n"), Some(named))
        .unwrap()
        .unwrap();
    assert_eq!(
        template.render(&[], &RenderOptions::default()).unwrap(),
        "<s>j"
    );

    for (text, part) in [
        ("", "not JSON"),
        ("[]", "JSON object"),
        (r#"{"bos_token": 1}"#, "bos_token"),
        (r#"{"chat_template": 1}"#, "chat_template"),
        (
            r#"{"chat_template": [{"name": "default"}]}"#,
            "chat_template",
        ),
        (
            r#"{"chat_template": [{"name": "rag", "template": ""}]}"#,
            r#"["rag"]"#,
        ),
        (r#"{"chat_template": "{% if %}"}"#, "line 1"),
    ] {
        let error = read(None, Some(text)).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}
