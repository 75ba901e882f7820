use std::io::{self, BufReader, Read};

use super::*;

type Task = InfiniteBenchTask;

fn all(task: Task, file: &str) -> Vec<TaskSample> {
    read(task, file.as_bytes()).map(Result::unwrap).collect()
}

/// The only sample of a file.
fn one(task: Task, line: &str) -> TaskSample {
    let mut samples = all(task, line);
    assert_eq!(samples.len(), 1);
    samples.remove(0)
}

/// The error that ends a file, and how many samples are before it.
fn refused(task: Task, file: &[u8]) -> (usize, String) {
    let mut items: Vec<_> = read(task, file).collect();
    let error = items.pop().unwrap().unwrap_err();
    assert!(items.iter().all(Result::is_ok));
    (items.len(), error.to_string())
}

fn scored(task: Task, answer: &str, references: &[&str]) -> f64 {
    let references: Vec<String> = references.iter().map(|&text| text.into()).collect();
    score(task, answer, &references)
}

/// A line of each task, and its prompt.
const LINES: [(Task, &str, &str); 12] = [
    (
        Task::PassKey,
        r#"{"id": 0, "context": "The pass key is 71432.\n", "input": "What is the pass key?", "answer": ["71432"], "options": []}"#,
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will quiz you about the important information.\n\nThe pass key is 71432.\n\n\nWhat is the pass key?\n\nThe pass key is",
    ),
    (
        Task::NumberString,
        r#"{"context": "Digits: 3000077442.\n", "input": "What is the sequence of digits?", "answer": "3000077442"}"#,
        "There is an important info hidden inside a lot of irrelevant text. Find it. I will quiz you about the important information there.\n\nDigits: 3000077442.\n\n\nWhat is the sequence of digits?\n\nThe sequence of digits is",
    ),
    (
        Task::KvRetrieval,
        r#"{"context": "JSON data:\n{\"k\": \"v\"}", "input": "\nKey: \"k\"\nThe value associated with the specified key is: ", "answer": "v"}"#,
        "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n{\"k\": \"v\"}\n\n\nKey: \"k\"\nThe value associated with the specified key is: ",
    ),
    (
        Task::LongDialogueQaEng,
        r#"{"context": "ACE: Hi, $$MASK$$.", "input": "", "answer": ["ACE", "ACE ROTHSTEIN"]}"#,
        "Below is a dialogue script where one random occurrence of a character name is replaced with \"$$MASK$$\", and you should try to guess who that character is.\n\nACE: Hi, $$MASK$$.\n\nThe name that has been replaced with $$MASK$$ is likely",
    ),
    (
        Task::LongBookSumEng,
        r#"{"context": "A book.", "answer": ["Short."]}"#,
        "Summarize the book below.\n\nA book.\n\nSummary:",
    ),
    (
        Task::LongBookChoiceEng,
        r#"{"context": "A book.", "input": "Who?", "answer": ["Two"], "options": ["One", "Two", "Three", "Four "]}"#,
        "Read the book and answer the question.\n\nA book.\n\nQuestion: Who?\nA. One\nB. Two\nC. Three\nD. Four \n\nThe letter of the correct answer is",
    ),
    (
        Task::LongBookQaEng,
        r#"{"context": "A book.", "input": "Who? ", "answer": ["Her", "She"]}"#,
        "Read the book and answer the question. Be very concise in your answer.\n\nA book.\n\nQuestion: Who? \nAnswer:",
    ),
    (
        Task::LongBookQaChn,
        r#"{"context": "\u4e66", "input": "谁？", "answer": ["她"]}"#,
        "阅读以下书籍然后回答问题。\n\n书\n\n问题：谁？\n答案：",
    ),
    (
        Task::MathFind,
        r#"{"prompt": "Find it:", "context": "[5, 49, 50]", "input": "You should answer with only one number, no other words. The second largest number of the list is: ", "answer": 49}"#,
        "What is the second largest number in the following list?\n\n[5, 49, 50]\n\nYou should answer with only one number, no other words. The second largest number of the list is: ",
    ),
    (
        Task::MathCalc,
        r#"{"context": "1 + 2 - 3", "input": "The value of the numerical expression is: ", "answer": [[3, 0]]}"#,
        "Let us calculate the intermediate values of an expression.\n\nExpression: 1 + 3 + 4\nValues: [1, 4, 8]\n\nExpression: 8 - 3 + 2 - 4\nValues: [8, 5, 7, 3]\n\nExpression: 1 + 2 - 3\nValues:",
    ),
    (
        Task::CodeRun,
        r#"{"context": "\ndef func_1(x):\n    return x\n", "input": "Please give me the exact number of the return value of func_1(-7). Your response should end with the sentence 'The return value is:'.", "answer": [-7]}"#,
        "There is a function called func_1 in the following Python code.\n\n\ndef func_1(x):\n    return x\n\n\nPlease compute the exact value of func_1(-7). The value of func_1(-7) is",
    ),
    (
        Task::CodeDebug,
        r#"{"context": "code", "input": "", "answer": ["g", "B"], "options": ["f", "g", "h", "i"]}"#,
        "Following is a Python code where exactly one of the functions/methods has a deliberate error that makes it crash.\n\ncode\n\nOptions:\nA. f\nB. g\nC. h\nD. i\n\nThe correct option is:",
    ),
];

#[test]
fn prompts_have_the_published_form() {
    for (task, line, prompt) in LINES {
        let sample = one(task, line);
        assert_eq!(sample.prompt(), prompt, "{task}");
        assert_eq!((sample.task.as_str(), sample.index), (task.name(), 0));
        assert_eq!(
            (sample.tokens, sample.tokens_to_generate),
            (0, task.tokens_to_generate())
        );
        assert!(sample.depth.is_none());
        for part in [&sample.document, &sample.question] {
            assert!(!part.trim().is_empty(), "{task}");
        }
        assert_eq!(sample.question.trim(), sample.question, "{task}");
        assert!(sample.separator.trim().is_empty(), "{task}");
    }
    assert_eq!(LINES.map(|(task, ..)| task), Task::ALL);
}

#[test]
fn questions_and_answer_prefixes_are_apart() {
    for (task, question, answer_prefix) in [
        (
            Task::PassKey,
            "What is the pass key?",
            "\n\nThe pass key is",
        ),
        (
            Task::KvRetrieval,
            "Key: \"k\"",
            "\nThe value associated with the specified key is: ",
        ),
        (Task::LongBookSumEng, "Summary:", ""),
        (
            Task::LongBookChoiceEng,
            "Question: Who?\nA. One\nB. Two\nC. Three\nD. Four",
            " \n\nThe letter of the correct answer is",
        ),
        (Task::LongBookQaEng, "Question: Who?", " \nAnswer:"),
        (
            Task::MathFind,
            "You should answer with only one number, no other words.",
            " The second largest number of the list is: ",
        ),
        (
            Task::CodeRun,
            "Please compute the exact value of func_1(-7).",
            " The value of func_1(-7) is",
        ),
    ] {
        let (_, line, _) = LINES
            .into_iter()
            .find(|(other, ..)| *other == task)
            .unwrap();
        let sample = one(task, line);
        assert_eq!(sample.question, question);
        assert_eq!(sample.answer_prefix, answer_prefix);
    }
    // An input without its usual end is all question.
    let sample = one(
        Task::KvRetrieval,
        r#"{"context": "{}", "input": "Which value?\n", "answer": "v"}"#,
    );
    assert_eq!(
        (sample.question.as_str(), sample.answer_prefix.as_str()),
        ("Which value?", "\n")
    );
    let sample = one(
        Task::MathFind,
        r#"{"context": "[1]", "input": "The median number of the list is: ", "answer": 1}"#,
    );
    assert_eq!(sample.question, "The median number of the list is:");
    assert!(sample.document.starts_with("What is the median number in"));
}

#[test]
fn references_are_the_published_labels() {
    let references = |task| {
        let (_, line, _) = LINES
            .into_iter()
            .find(|(other, ..)| *other == task)
            .unwrap();
        one(task, line).references
    };
    assert_eq!(references(Task::PassKey), ["71432"]);
    assert_eq!(references(Task::NumberString), ["3000077442"]);
    assert_eq!(
        references(Task::LongDialogueQaEng),
        ["ACE", "ACE ROTHSTEIN"]
    );
    assert_eq!(references(Task::LongBookChoiceEng), ["Two", "B"]);
    assert_eq!(references(Task::MathFind), ["49"]);
    assert_eq!(references(Task::MathCalc), ["3", "0"]);
    assert_eq!(references(Task::CodeRun), ["-7"]);
    assert_eq!(references(Task::CodeDebug), ["g", "B"]);
    let median = r#"{"context": "[1, 2]", "input": "The median number of the list is: ", "answer": [NUMBER]}"#;
    for number in ["1.5", "2.0", "2"] {
        let line = median.replace("NUMBER", number);
        assert_eq!(one(Task::MathFind, &line).references, [number]);
    }
}

#[test]
fn equal_contexts_have_equal_documents() {
    let line = |question: &str| {
        format!(
            r#"{{"context": "A long book.\n", "input": "{question}", "answer": ["x"], "options": ["x", "y", "z", "w"]}}"#
        )
    };
    let file = [line("Who?"), line("Where?"), line("When?")].join("\n");
    for task in [
        Task::PassKey,
        Task::NumberString,
        Task::KvRetrieval,
        Task::LongDialogueQaEng,
        Task::LongBookSumEng,
        Task::LongBookChoiceEng,
        Task::LongBookQaEng,
        Task::LongBookQaChn,
        Task::CodeDebug,
    ] {
        let samples = all(task, &file);
        assert_eq!(samples.len(), 3);
        for (index, sample) in samples.iter().enumerate() {
            assert_eq!(sample.index, index);
            assert_eq!(sample.document, samples[0].document, "{task}");
            assert!(sample.document.ends_with("A long book."), "{task}");
        }
    }
    let samples = all(Task::LongBookQaEng, &file);
    assert_ne!(samples[0].question, samples[1].question);
}

#[test]
fn lines_and_arrays_are_read_alike() {
    let (task, line, _) = LINES[0];
    let expected = all(task, &format!("{line}\n{line}"));
    for file in [
        format!("{line}\r\n{line}\r\n"),
        format!("\n  \n{line}\n\n{line}\n\n\n"),
        format!("[{line},{line}]"),
        format!(" [\n{line}\n,\n{line}\n]\n\n"),
        format!("[{}, {line}]", line.replace(", ", "\n,\n  ")),
    ] {
        assert_eq!(all(task, &file), expected, "{file}");
        // However few bytes a read gives.
        let slow = BufReader::with_capacity(1, file.as_bytes());
        let found: Vec<TaskSample> = read(task, slow).map(Result::unwrap).collect();
        assert_eq!(found, expected, "{file}");
    }
    // Braces and quotation marks in a text are text.
    let file = r#"[{"context": "}]\"{[\\", "answer": "\\\""}]"#;
    let sample = one(Task::LongBookSumEng, file);
    assert!(sample.document.ends_with("}]\"{[\\"));
    assert_eq!(sample.references, ["\\\""]);
}

#[test]
fn errors_name_line_field_expected_and_found() {
    let (task, line, _) = LINES[0];
    for (broken, expected) in [
        (
            r#"{"input": "?", "answer": "1"}"#,
            r#"line 3, sample 1, field "context": expected text, found no such field"#,
        ),
        (
            r#"{"context": ["a"], "input": "?", "answer": "1"}"#,
            r#"line 3, sample 1, field "context": expected text, found a list"#,
        ),
        (
            r#"{"context": " \n", "input": "?", "answer": "1"}"#,
            r#"line 3, sample 1, field "context": expected text that is not only white space, found " \n""#,
        ),
        (
            r#"{"context": "c", "input": 7.5, "answer": "1"}"#,
            r#"line 3, sample 1, field "input": expected text, found the number 7.5"#,
        ),
        (
            r#"{"context": "c", "input": "?"}"#,
            r#"field "answer": expected a text, a number, or a list of them, of at most 1048576 bytes, found no such field"#,
        ),
        (
            r#"{"context": "c", "input": "?", "answer": []}"#,
            "found an empty list",
        ),
        (
            r#"{"context": "c", "input": "?", "answer": null}"#,
            "found null",
        ),
        (
            r#"{"context": "c", "input": "?", "answer": ["1", {"a": 1}]}"#,
            "found a list with an object",
        ),
        (
            r#"{"context": "c", "input": "?", "answer": [["1"], "2"]}"#,
            "found a list with a list and other items",
        ),
        (
            r#"{"context": "c", "input": "?", "answer": ["1", ["2"]]}"#,
            "found a list with a list and other items",
        ),
        (
            r#"{"context": "c", "input": "?", "answer": true}"#,
            "found a truth value",
        ),
        (
            r#"{"context": "c", "context": "d"}"#,
            "line 3, sample 1: expected JSON, found at column 26: duplicate field `context`",
        ),
        (
            r#"{"context": "c""#,
            "line 3, sample 1: expected JSON, found at column 15: EOF while parsing an object",
        ),
        ("7", "line 3, sample 1: expected an object, found '7'"),
        (
            r#"["context"]"#,
            "line 3, sample 1: expected an object, found '['",
        ),
    ] {
        let (before, message) = refused(task, format!("{line}\n\n{broken}\n{line}").as_bytes());
        assert_eq!(before, 1);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn errors_of_tasks_name_what_they_need() {
    for (task, line, expected) in [
        (
            Task::LongBookChoiceEng,
            r#"{"context": "c", "input": "?", "answer": "x", "options": ["x", "y"]}"#,
            r#"field "options": expected four options, found 2"#,
        ),
        (
            Task::LongBookChoiceEng,
            r#"{"context": "c", "input": "?", "answer": "v", "options": ["x", "y", "z", "w"]}"#,
            r#"field "answer": expected one of the options, found "v""#,
        ),
        (
            Task::CodeDebug,
            r#"{"context": "c", "answer": ["x", "E"], "options": ["x", "y", "z", "w"]}"#,
            r#"field "answer": expected an option, or an option and its letter, found 2 answers that begin with "x""#,
        ),
        (
            Task::MathFind,
            r#"{"context": "c", "input": "The largest number of the list is: ", "answer": "nan"}"#,
            r#"field "answer": expected a number, found "nan""#,
        ),
        (
            Task::MathFind,
            r#"{"context": "c", "input": "The largest?\n of", "answer": 3}"#,
            r#"field "input": expected the number that is asked for"#,
        ),
        (
            Task::MathCalc,
            r#"{"context": "c", "answer": [[1, 2, 3.5]]}"#,
            r#"field "answer": expected a whole number, found "3.5""#,
        ),
        (
            Task::CodeRun,
            r#"{"context": "c", "input": "func_(1) func_1() func_1(-) func_2(3", "answer": 1}"#,
            r#"field "input": expected a call such as `func_1(-2)`"#,
        ),
        (
            Task::CodeRun,
            r#"{"context": "c", "input": "func_1(1)", "answer": "one"}"#,
            r#"field "answer": expected a whole number, found "one""#,
        ),
    ] {
        let (before, message) = refused(task, line.as_bytes());
        assert_eq!(before, 0);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn hostile_files_are_refused() {
    let (task, line, _) = LINES[0];
    for empty in ["", " \n\n", "[]", "[\n]"] {
        assert_eq!(
            refused(task, empty.as_bytes()).1,
            "expected at least one sample, found none"
        );
    }
    let mut bytes = format!("{line}\n").into_bytes();
    bytes.extend_from_slice(b"{\"context\": \"\xff\"}");
    let message = "line 2, sample 1: expected UTF-8, found other bytes after 13 bytes of it";
    assert_eq!(refused(task, &bytes), (1, message.into()));
    let mut bytes = format!("[{line},\n{{\n").into_bytes();
    bytes.extend_from_slice(b"\"context\": \"\xff\"}]");
    assert!(
        refused(task, &bytes)
            .1
            .starts_with("line 3, sample 1: expected UTF-8")
    );
    for (file, expected) in [
        (
            format!("[{line}"),
            "sample 1: expected a comma or the end of the array, found the end of the file",
        ),
        (
            format!("[{line},"),
            "sample 1: expected an object, found the end of the file",
        ),
        (
            format!("[{line},]"),
            "sample 1: expected an object, found ']'",
        ),
        (
            format!("[{line}{line}]"),
            "sample 1: expected a comma or the end of the array, found '{'",
        ),
        (
            format!("[{line}\n]\n,"),
            "line 3, sample 1: expected the end of the file after the array, found ','",
        ),
        (
            format!("[{line},\n{{\n\"a"),
            "line 3, sample 1: expected the rest of the object, found the end of the file",
        ),
        (format!("[{line},\n{{\n]}}"), "sample 1: expected JSON"),
        (
            format!("[{line}, 7]"),
            "sample 1: expected an object, found '7'",
        ),
    ] {
        let (before, message) = refused(task, file.as_bytes());
        assert_eq!(before, 1, "{file}");
        assert!(message.contains(expected), "{file}: {message}");
    }
    // As deep as one likes, in a field that is read and in one that is not.
    let deep = "[".repeat(100_000);
    let file = format!(r#"{{"context": {deep}"#);
    assert!(refused(task, file.as_bytes()).1.contains("recursion limit"));
    let file = format!(r#"{{"other": {deep}"#);
    assert!(
        refused(task, file.as_bytes())
            .1
            .contains("EOF while parsing")
    );
}

#[test]
fn every_shortened_line_is_refused() {
    for (task, line, _) in LINES {
        for end in (1..line.len()).filter(|&end| line.is_char_boundary(end)) {
            for file in [line[..end].to_owned(), format!("[{}", &line[..end])] {
                let (before, message) = refused(task, file.as_bytes());
                assert_eq!(before, 0, "{file}");
                assert!(
                    message.starts_with("line 1, sample 0: expected "),
                    "{message}"
                );
            }
        }
    }
}

#[test]
fn long_samples_are_refused() {
    let (task, line, _) = LINES[0];
    let read = |file: &str, longest| {
        let records = Records::with_longest(file.as_bytes(), longest);
        let items = records.samples(|record| prompt::sample(task, record));
        items.collect::<Result<Vec<_>, _>>()
    };
    for file in [
        format!("{line}\n{line}\n"),
        format!("{line}\n{line}"),
        format!("[{line},\n{line}]"),
    ] {
        assert_eq!(read(&file, line.len()).unwrap().len(), 2);
        let message = read(&file, line.len() - 1).unwrap_err().to_string();
        let expected = format!(
            "line 1, sample 0: expected at most {} bytes, found more",
            line.len() - 1
        );
        assert_eq!(message, expected);
    }
    // An answer has a limit of its own.
    for (answer, found) in [
        (
            format!("\"{}\"", "x".repeat((1 << 20) + 1)),
            "found a longer text",
        ),
        (
            format!("[\"{}\", 7]", "x".repeat(1 << 20)),
            "found a list with more than 1048576 bytes",
        ),
        (
            format!("[{}1]", "1,".repeat(1 << 17)),
            "found a list with more than 131072 items",
        ),
    ] {
        let file = format!(r#"{{"context": "c", "answer": {answer}}}"#);
        let (_, message) = refused(Task::LongBookSumEng, file.as_bytes());
        assert!(message.ends_with(found), "{message}");
    }
}

#[test]
fn errors_of_reading_are_passed_on_once() {
    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("gone"))
        }
    }

    let (task, line, _) = LINES[0];
    for file in [format!("{line}\n"), format!("[{line}")] {
        let mut samples = read(task, BufReader::new(file.as_bytes().chain(Broken)));
        assert!(samples.next().unwrap().is_ok());
        let error = samples.next().unwrap().unwrap_err().to_string();
        assert!(error.contains("sample 1: cannot be read: gone"), "{error}");
        assert!(samples.next().is_none());
    }
}

#[test]
fn names_are_read_as_they_are_written() {
    for task in Task::ALL {
        assert_eq!(task.name().parse::<Task>().unwrap(), task);
        let json = serde_json::to_string(&task).unwrap();
        assert_eq!(json, format!("\"{task}\""));
        assert_eq!(serde_json::from_str::<Task>(&json).unwrap(), task);
    }
    let error = "longbook_qa_en".parse::<Task>().unwrap_err();
    assert!(
        error.to_string().contains("did you mean longbook_qa_eng?"),
        "{error}"
    );
}

#[test]
fn digits_words_and_numbers_are_scored_as_published() {
    for (task, answer, references, expected) in [
        (Task::PassKey, " 71432.", &["71432"][..], 1.0),
        (Task::PassKey, "1 71432", &["71432"], 0.0),
        (Task::PassKey, "", &["71432"], 0.0),
        (Task::PassKey, "71432", &[], 0.0),
        (Task::NumberString, "is 3000077442", &["3000077442"], 1.0),
        (Task::NumberString, "30000774421", &["3000077442"], 0.0),
        (Task::KvRetrieval, "{\"k\":\"v-1\"}", &["v-1"], 1.0),
        (Task::KvRetrieval, "v-12", &["v-1"], 0.0),
        (
            Task::LongDialogueQaEng,
            "\"Ace\", I think",
            &["ACE", "ACE ROTHSTEIN"],
            1.0,
        ),
        (
            Task::LongDialogueQaEng,
            "Rothstein",
            &["ACE", "ACE ROTHSTEIN"],
            0.0,
        ),
        (Task::LongDialogueQaEng, "Aces", &["ACE"], 0.0),
        // Two words are never one.
        (Task::LongDialogueQaEng, "MR BIG", &["MR BIG"], 0.0),
        (Task::MathFind, " 97, I think 3", &["97"], 1.0),
        (Task::MathFind, "97.5", &["97"], 0.0),
        (Task::MathFind, "49.50", &["49.5"], 1.0),
        (Task::MathFind, "none", &["97"], 0.0),
        (Task::MathCalc, "[3, 0]", &["3", "0"], 1.0),
        (Task::MathCalc, "3, 1, 0", &["3", "0", "0"], 1.0 / 3.0),
        (Task::MathCalc, "1, 0", &["3", "0"], 0.0),
        (Task::MathCalc, "3 0 5", &["3", "0"], 1.0),
        (Task::MathCalc, "03", &["3", "0"], 0.5),
        (Task::MathCalc, "99999999999999999999 0", &["3", "0"], 0.0),
        (Task::MathCalc, "", &["3"], 0.0),
        (Task::CodeRun, " The return value is: -7.", &["-7"], 1.0),
        (Task::CodeRun, "`+7`", &["7"], 1.0),
        (Task::CodeRun, "7 or so", &["7"], 0.0),
        // The dot separates, so that the last word is the decimals.
        (Task::CodeRun, "3.7", &["7"], 1.0),
        (Task::CodeRun, "func_1(7)", &["7"], 0.0),
        (Task::CodeRun, ".", &["7"], 0.0),
    ] {
        let found = scored(task, answer, references);
        assert!(
            (found - expected).abs() < 1e-12,
            "{task} {answer:?} {found}"
        );
    }
}

#[test]
fn options_are_scored_as_published() {
    for (task, answer, references, expected) in [
        (Task::LongBookChoiceEng, " B. Two", ["Two", "B"], 1.0),
        (Task::LongBookChoiceEng, "A", ["Two", "B"], 0.0),
        (Task::LongBookChoiceEng, "Two", ["Two", "B"], 1.0),
        (Task::LongBookChoiceEng, "", ["Two", "B"], 0.0),
        // The first letter counts, whatever follows.
        (Task::LongBookChoiceEng, "But no", ["Two", "B"], 1.0),
        (
            Task::LongBookChoiceEng,
            "The answer is: \"B\"",
            ["Two", "B"],
            1.0,
        ),
        (
            Task::LongBookChoiceEng,
            "The answer is\nTwo",
            ["Two", "B"],
            1.0,
        ),
        // One character after the words is left out.
        (
            Task::LongBookChoiceEng,
            "The answer is:B",
            ["Two", "B"],
            0.0,
        ),
        (Task::LongBookChoiceEng, "The answer is", ["Two", "B"], 0.0),
        (
            Task::LongBookChoiceEng,
            "the answer is C, not B",
            ["Two", "B"],
            0.0,
        ),
        (Task::LongBookChoiceEng, "it must be B!", ["Two", "B"], 1.0),
        (Task::LongBookChoiceEng, "it is AB or B", ["Two", "B"], 0.0),
        (Task::LongBookChoiceEng, "é", ["Two", "B"], 0.0),
        (Task::CodeDebug, " B. g", ["g", "B"], 1.0),
        (Task::CodeDebug, "B: g", ["g", "B"], 1.0),
        (Task::CodeDebug, "A. f", ["g", "B"], 0.0),
        // A letter alone is not enough.
        (Task::CodeDebug, "B", ["g", "B"], 0.0),
        (Task::CodeDebug, "the answer is: B", ["g", "B"], 1.0),
        // Marks around a name are spaces, and several spaces are one.
        (Task::CodeDebug, "The error is: `g`", ["g", "B"], 1.0),
        (Task::CodeDebug, "The error is: g", ["g", "B"], 1.0),
        (Task::CodeDebug, "Answer: Option B", ["g", "B"], 0.0),
        (Task::CodeDebug, "answer: Option B", ["g", "B"], 1.0),
        (Task::CodeDebug, "the answer is:", ["g", "B"], 0.0),
        (Task::CodeDebug, "", ["g", "B"], 0.0),
    ] {
        assert_eq!(
            scored(task, answer, &references),
            expected,
            "{task} {answer:?}"
        );
    }
}

#[test]
fn answers_in_words_are_scored_as_published() {
    for (task, answer, references, expected) in [
        (Task::LongBookQaEng, "The  Cat!", &["a cat"][..], 1.0),
        (Task::LongBookQaEng, "dog", &["cat"], 0.0),
        (Task::LongBookQaEng, "the", &["the"], 0.0),
        // One of two words, and of one: P 1/2, R 1.
        (Task::LongBookQaEng, "black cat", &["dog", "cat"], 2.0 / 3.0),
        // `cat` once, though it is there three times: P 1/3, R 1/2.
        (Task::LongBookQaEng, "cat cat cat", &["cat dog"], 0.4),
        // Punctuation is left out before articles are.
        (
            Task::LongBookQaEng,
            "a-n the'a theory",
            &["thea theory"],
            1.0,
        ),
        (Task::LongBookQaEng, "", &["cat"], 0.0),
        (Task::LongBookSumEng, "The cat sat.", &["the CAT, sat"], 1.0),
        // The longest common subsequence has one word of two and two.
        (Task::LongBookSumEng, "b a", &["a b"], 0.5),
        (Task::LongBookSumEng, "dog", &["the cat"], 0.0),
        (Task::LongBookQaChn, "田归农。", &["田归农"], 1.0),
        (Task::LongBookQaChn, "胡", &["田"], 0.0),
        // Two of four characters, and of two.
        (Task::LongBookQaChn, "是 田，归！吗", &["田归"], 2.0 / 3.0),
        (Task::LongBookQaChn, "。", &["田"], 0.0),
    ] {
        let found = scored(task, answer, references);
        assert!(
            (found - expected).abs() < 1e-12,
            "{task} {answer:?} {found}"
        );
    }
}
