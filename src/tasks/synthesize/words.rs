//! The words of inserted sentences. All are invented or common; none name a real person.
//!
//! The order of draws is fixed: a seed gives the same samples in every version.

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

const NOUNS: &str = "anchor apple arrow attic bakery balcony banner barley barrel basket beacon bell bench birch blanket \
    bottle bramble bridge broom bucket butter button cabin candle canoe canvas carpet castle cellar chapel cherry chimney \
    clover cobbler coffee comet compass copper coral cottage cotton cradle crystal curtain cushion daisy desert dolphin \
    drawer dune eagle ember engine falcon feather fence ferry fiddle flute forest fossil fountain galaxy garden garlic \
    garnet ginger glacier goblet granite hammer harbor harvest hazel helmet heron hill honey horizon island ivory jacket \
    jasmine jigsaw juniper kettle kitchen kite ladder lagoon lantern lemon library lighthouse lobster magnet mango maple \
    marble market meadow mirror monsoon mosaic mountain museum mustard needle nutmeg oak oasis olive orchard otter oyster \
    paddle palace parade parcel pebble pepper piano pigeon pillow pine pocket pond prairie pumpkin puzzle quarry quill \
    rabbit raven ribbon river rocket saddle saffron salmon satchel shadow shelter signal silver sparrow spindle spruce \
    stable station summit sunset teapot temple thimble thunder timber tower trumpet tulip tunnel turnip valley velvet \
    village violin walnut warehouse willow window winter workshop zephyr";

const ADJECTIVES: &str = "agile amber ancient arctic autumn azure bold brave bright brisk broken bronze busy calm careful \
    cheerful clever cloudy cold copper cosmic crimson curious curly damp daring dark dear deep dusty eager early eastern \
    elder electric emerald empty faded faint fancy far fast fearless fierce final foggy fond forgotten fragile fresh \
    friendly frosty gentle giant gilded glad glassy golden grand grateful green grey happy hasty heavy hidden hollow \
    honest humble hungry idle icy indigo iron jolly keen kind large late lazy light little lively lone lost loud lucky \
    lunar mellow merry mighty misty modest muddy narrow neat nimble noble northern odd old olive pale patient plain \
    playful polite proud purple quick quiet rapid rare red restless ripe rosy rough round royal rustic sandy scarlet \
    secret serene shiny short shy silent silver simple sleepy slender slow small smooth snowy soft solar solid southern \
    spare stable steady stormy strange strong sturdy sunny sweet swift tall tame tender thirsty tidy tiny tired upper \
    vague velvet violet warm weary western white wide wild windy wise wooden young";

const SHADES: &str = "pale dark bright dull faded glossy smoky dusty deep light";

const COLOURS: &str = "turquoise crimson lavender ochre magenta teal maroon indigo olive coral beige violet amber scarlet \
    ivory cobalt mustard burgundy lilac charcoal";

const CITIES: &str = "Reykjavik Montevideo Tbilisi Antananarivo Ulaanbaatar Valparaiso Gothenburg Marrakesh Nairobi \
    Vladivostok Adelaide Winnipeg Bratislava Casablanca Colombo Dakar Guadalajara Helsinki Islamabad Jakarta Kathmandu \
    Ljubljana Medellin Nagasaki Osaka Perth Quito Rotterdam Salzburg Tashkent Utrecht Vilnius Wellington Yerevan Zagreb \
    Bergen Cusco Dunedin Esfahan Fukuoka Ghent Haifa Izmir Kampala Lusaka Malaga Nantes Odense Porto Riga Sapporo \
    Tampere Uppsala Windhoek Aarhus Bilbao Cork Durban Graz Leipzig Maputo Tallinn";

const MONTHS: &str =
    "January February March April May June July August September October November December";

const FIRST_NAMES: &str = "Adela Alaric Anselm Beatrix Benno Calla Caspian Cedric Clio Corwin Dagny Delphine Edmund Elspeth \
    Emeric Faye Ferdinand Flora Gideon Greta Hester Hollis Ida Ingrid Isolde Jasper Jorun Juno Kasimir Lavinia Leopold \
    Linnea Lorcan Mabel Magnus Marcella Mirela Nadia Nestor Odette Orla Oswin Perpetua Petra Quentin Ramona Rufus Sabine \
    Selwyn Sunniva Tabitha Thaddeus Ulrika Valentin Vesna Wanda Wilhelm Xenia Yorick Zelda";

const SYLLABLES: &str = "bar bel bor cal cor dan del dor fal fen gal gar hal hel hor kal kel lan lor mar mel mor nar nel \
    nor pel por ral ren rin sal sel sor tal tan tor val vel vin vor wal wen zan zel";

const SURNAME_ENDS: &str = "ack ander berg dale ello evich field ford holm ini man mond ova quist sson stead ton wick worth ymer";

const TOWN_ENDS: &str =
    "bury by castle dale field ford gate ham haven holm mere minster mouth port stead ton wick";

/// Sentences to insert, and the question and answer about them.
pub(super) struct Needle {
    pub(super) sentences: Vec<String>,
    pub(super) question: String,
    pub(super) answer: String,
    /// Texts that must occur in the document once only, or the question has two answers.
    pub(super) unique: Vec<String>,
}

/// The kind of an inserted value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// Five to eight digits.
    Number,
    /// Letters and digits.
    Code,
    /// Two words and digits, joined.
    Password,
    /// A letter and digits.
    Room,
    /// A shade and a colour.
    Colour,
    /// A real city.
    City,
    /// A day in the future.
    Date,
    /// A time of the day, to the second.
    Time,
    /// Thirty-two hexadecimal digits.
    Uuid,
    /// An invented person.
    Person,
}

impl Value {
    /// Draws one.
    pub(super) fn draw(self, random: &mut Xoshiro256PlusPlus) -> String {
        let mut below = |end: u32| random.random_range(0..end);
        match self {
            Self::Number => {
                let digits = 4 + below(4);
                let first = 10u32.pow(digits);
                (first + below(9 * first)).to_string()
            }
            Self::Code => {
                const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZ";
                let mut letter = || char::from(LETTERS[below(LETTERS.len() as u32) as usize]);
                let letters = [letter(), letter(), letter()];
                format!(
                    "{}{}-{:04}-{}",
                    letters[0],
                    letters[1],
                    below(10_000),
                    letters[2]
                )
            }
            Self::Password => {
                let digits = 10 + below(990);
                format!(
                    "{}{}{digits}",
                    capital(word(ADJECTIVES, random)),
                    capital(word(NOUNS, random))
                )
            }
            Self::Room => format!(
                "{}-{}",
                char::from(b'A' + below(8) as u8),
                1000 + below(9000)
            ),
            Self::Colour => format!("{} {}", word(SHADES, random), word(COLOURS, random)),
            Self::City => word(CITIES, random).into(),
            Self::Date => {
                let (day, year) = (1 + below(28), 2031 + below(60));
                format!("{day} {} {year}", word(MONTHS, random))
            }
            Self::Time => format!("{:02}:{:02}:{:02}", below(24), below(60), below(60)),
            Self::Uuid => {
                let [a, b, c]: [u32; 3] = random.random();
                let d: u32 = random.random();
                let (b, c) = ((b >> 16, b & 0xffff), (c >> 16, c & 0xffff));
                format!(
                    "{a:08x}-{:04x}-{:04x}-{:04x}-{:04x}{d:08x}",
                    b.0, b.1, c.0, c.1
                )
            }
            Self::Person => person(random),
        }
    }
}

/// A key: a noun, or an adjective and a noun where `long`.
pub(super) fn key(long: bool, random: &mut Xoshiro256PlusPlus) -> String {
    match long {
        true => format!("{}-{}", word(ADJECTIVES, random), word(NOUNS, random)),
        false => word(NOUNS, random).into(),
    }
}

/// An invented person.
pub(super) fn person(random: &mut Xoshiro256PlusPlus) -> String {
    let surname = [
        word(SYLLABLES, random),
        word(SYLLABLES, random),
        word(SURNAME_ENDS, random),
    ];
    format!(
        "{} {}",
        word(FIRST_NAMES, random),
        capital(&surname.concat())
    )
}

/// An invented town.
pub(super) fn town(random: &mut Xoshiro256PlusPlus) -> String {
    let name = [
        word(SYLLABLES, random),
        word(SYLLABLES, random),
        word(TOWN_ENDS, random),
    ];
    capital(&name.concat())
}

/// One word of a list.
pub(super) fn word(list: &'static str, random: &mut Xoshiro256PlusPlus) -> &'static str {
    let words = list.split_ascii_whitespace();
    let index = random.random_range(0..words.clone().count().max(1));
    words.clone().nth(index).unwrap_or_default()
}

/// One of several; the list is not empty.
pub(super) fn one_of<T: Copy>(list: &[T], random: &mut Xoshiro256PlusPlus) -> T {
    list[random.random_range(0..list.len())]
}

/// Puts words into the slots of a template, such as `{key}`.
pub(super) fn fill(template: &str, slots: &[(&str, &str)]) -> String {
    let mut text = template.to_owned();
    for (name, value) in slots {
        text = text.replace(&format!("{{{name}}}"), value);
    }
    text
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::HashSet;

    #[test]
    fn lists_hold_many_different_words() {
        for (list, least) in [
            (NOUNS, 100),
            (ADJECTIVES, 100),
            (CITIES, 60),
            (FIRST_NAMES, 50),
            (MONTHS, 12),
        ] {
            let words: Vec<&str> = list.split_ascii_whitespace().collect();
            let different: HashSet<&&str> = words.iter().collect();
            assert_eq!(words.len(), different.len(), "{list}");
            assert!(words.len() >= least, "{}: {list}", words.len());
        }
    }

    #[test]
    fn values_have_their_form() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        for _ in 0..1000 {
            let number = Value::Number.draw(&mut random);
            assert!(
                (5..=8).contains(&number.len()) && !number.starts_with('0'),
                "{number}"
            );
            assert_eq!(Value::Uuid.draw(&mut random).len(), 36);
            assert_eq!(Value::Code.draw(&mut random).len(), 9);
            assert_eq!(Value::Time.draw(&mut random).len(), 8);
        }
    }
}
