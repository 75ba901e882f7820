//! The words of keys and of word lists: common English words, collected for this project. None is taken
//! from a list of another benchmark.
//!
//! The lists are fixed: a seed gives the same samples as long as they do not change.

use std::collections::HashSet;
use std::sync::LazyLock;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

/// Nouns. None begins with another one.
const NOUN_LIST: &str = "abbey acorn acre airport album alley almond alphabet amulet anthem anvil apron aquarium arcade \
    archway armchair armor ash atlas aunt author avenue avocado award axle baby backpack badge bagel \
    ball bamboo banana band banjo bank bar basement basin bat bay beach beak bean bear beaver bed \
    bee belt bicycle bird biscuit bishop blade blossom blouse boar boat bone bonnet book boot border \
    boulder bowl box bracelet brain branch bread breakfast brick bride brother brush bubble bud \
    buffalo bugle builder bulb bull bus butcher butterfly cabbage cable cactus cake calendar camel \
    camera camp canal canary cap car cat cave ceiling celery cement chain chair chalk channel chart \
    cheese chef chess chest chicken chief child chin chisel church cider cinema circle circus city \
    clam clay cliff clock closet cloth cloud coach coast coat cobra cocoa coconut coin collar \
    college colony column comb concert cone cook corn couch cousin cow coyote crab cracker crane \
    crate crayon cream creek crew cricket crow cruise crumb crust cube cucumber cup curry cymbal dam \
    dance dawn deck dentist desk dessert dew dial diamond diary dictionary diner dinner dish dock \
    doctor dog doll dome donkey door dough dove dragon drama dress drill driver drum duck dust easel \
    echo eel egg elbow elephant elevator elm envelope estate evening eye fabric face factory fairy \
    family farm father faucet ferret field fig finger fire fish flag flame flannel flask flea fleet \
    flock flood floor flour flower fog folder folk food foot fork fort fox frame freezer friend frog \
    frost fruit fur gallery gallop garage gate gazelle gem geyser ghost giraffe glass globe glove \
    glue goat gold goose gorge gorilla gown grain grape grass gravel guest guide guitar gull gutter \
    gym hail hair hall ham hand hare harp hat hawk hay head heart hedge herb highway hippo hive \
    hockey hole hood hoof hook horn horse hospital hotel hour house hut ice inch infant ink inn \
    insect iris jaguar jail jam jar jaw jelly jet jewel judge jug juice jungle jury kangaroo kayak \
    kernel key king kitten knee knife knight knot koala label lace lake lamb lamp land language lap \
    lark laundry lava lawn lawyer leaf leather lemur lens leopard letter lettuce lever lid lily lime \
    line lion lip lizard llama loaf lock log lotus lunch lung machine magazine magician mailbox \
    mammoth manor map mask mat mayor meal medal melody melon menu metal meteor mill miner mint \
    minute mitten moat mole monkey month moon morning mosquito moss moth motor mouse mouth movie mud \
    muffin mug mule muscle mushroom nail napkin neck nephew nest net newspaper nickel niece night \
    noodle noon north nose notebook novel number nurse nut oat ocean octopus office oil omelet onion \
    opera orange orbit orchid organ ostrich oven owl ox page pail paint palm pan paper parent parrot \
    party passport pasta pastry path pea pedal pelican pen perfume pet phone photo picnic picture \
    pie pig pilot pipe pirate pitcher pizza planet plank plant plate platter plaza plow plug plum \
    poem poet pole pony pool porch porridge port post pot powder prince printer prison prize pudding \
    puddle pump puppet puppy purse pyramid quail queen quilt raccoon racket radar radio radish raft \
    rail rain raisin rake ranch rat reef region reindeer restaurant rhino rice riddle rider rifle \
    ring road robe robin robot rock roof room rooster root rope rose rug ruler sack sailor salad \
    salt sand sauce sauna sausage saw scale scarf school scooter scorpion screen screw sculptor sea \
    seed shark shed shelf shell sheriff ship shirt shoe shop shore shoulder shovel shower shrimp \
    shrub siren sister skate skeleton ski skull sky slate sled sleeve slipper slope snail snake snow \
    soap soccer sock sofa soil soldier song soup spade spear spice spider spinach spoon sport spring \
    spy squad square squid squirrel stage stair stamp star statue steak steam steel stem step stew \
    stick stone stool store stork storm stove straw street student studio subway suitcase sun \
    surgeon swamp swan sweater sword syrup table tail tank tape tavern taxi tea tent tiger tile toad \
    toast toe tomato tongue tooth topaz torch tortoise towel town toy tractor trail train tram tray \
    treasure tree tribe trout truck trunk tub tuna turkey turtle tutor twig typewriter umbrella \
    uncle uniform urn vacuum van vase vault veil vendor verse vest veteran video vine viper visitor \
    voice volcano vulture wagon waist waiter wall walrus wasp watch water wave wax weasel wedding \
    week whale wharf wheat wheel whisker whistle wig wing wire witch wizard wolf woman wood wool \
    word worm wreath wrist yacht yard yarn year yogurt zebra zinc zipper";

/// Adjectives. None ends with another one.
const ADJECTIVE_LIST: &str = "able absent absolute abstract active actual adult afraid aged airy alert alike alive aloof \
    amazing ambitious ample amused angry annual anxious apparent apt arid aromatic artistic ashamed \
    asleep athletic austere automatic average awake aware awful awkward bald bare basic beautiful \
    beloved beneficial bent best bitter bizarre black bland blank blue blunt blushing boiling bony \
    boring bossy bouncy brainy breezy brief brilliant brittle broad brown brutal bulky bumpy burly \
    candid careless cautious central certain charming cheap cheeky chemical chilly chubby circular \
    civil classic clear clinical closed clumsy coarse coastal colorful combative comic common \
    compact complete complex confident confused conscious constant content cool cooperative correct \
    costly cosy covered cozy crafty crazy creamy creative creepy crisp critical crooked crowded \
    cruel crunchy cuddly cultural cunning custom cute cynical dainty dangerous dazzling dead deadly \
    decent decimal defiant definite deliberate delicate delicious delightful dense dependent \
    determined different difficult digital diligent dim direct dirty distant distinct diverse divine \
    dizzy domestic double doubtful dramatic dreary dry dual dull dutiful eerie effective efficient \
    elaborate elastic elated elegant eligible eminent enchanted endless energetic enormous \
    enthusiastic entire equal essential eternal ethical even exact excellent excited exotic \
    expensive expert external extra fair faithful familiar famous fantastic faulty federal feeble \
    female fertile festive few fickle filthy fine firm first fiscal fit fixed flaky flashy flat \
    flawless flexible fluffy fluid foolish formal frail frank frantic free frequent frozen frugal \
    full fun funny fussy future fuzzy generous genuine ghostly gifted gigantic glamorous gleaming \
    global gloomy glorious glossy good gorgeous graceful gracious greasy greedy gregarious grim \
    gritty grouchy growing grumpy guilty gullible handy harmless harmonic harsh healthy heavenly \
    helpful helpless heroic hilarious historic hoarse holy homely horrible hot huge human humid \
    hushed husky icky ideal identical ignorant immense impish important impressive incredible \
    industrial infinite initial innocent internal intrepid inventive itchy jagged jealous jittery \
    joint jovial joyful juicy jumbo junior juvenile kindly knotty known labored lanky latent latter \
    lavish leading lean left legal lethal level liberal limp liquid literal livid local logical long \
    loose lovely low loyal lumpy luxurious lyrical mad magical magnetic main major manual many \
    marine married massive mature meager mean measly mechanical medical medium melodic menacing \
    merciful messy metallic mild minor minty mixed mobile modern moist monthly mortal motionless \
    mountainous muffled multiple mundane murky musical muted mutual mysterious naive nasty native \
    natural naughty nautical near necessary needy negative nervous neutral new nice nifty nippy \
    nocturnal noisy normal numb numerous nutty obedient obvious occasional official oily only open \
    optimal optimistic opulent oral ordinary organic original ornate other outer outgoing outlying \
    outrageous outstanding oval overdue overjoyed painful paltry parched partial passive past \
    peaceful peppery perfect periodic perky personal petty physical piercing pink plump poetic \
    pointed poised polished political poor popular portly posh positive possible powerful practical \
    precious precise pretty previous pricey prickly primary prime pristine private productive \
    profound prompt proper public puny pure pushy putrid puzzled quaint qualified quarterly quirky \
    quixotic radiant ragged random rash raw ready real rear recent reckless rectangular regal \
    regular remote repulsive responsible revolving rich right rigid ringed robust rotten rowdy \
    rubbery rude rundown runny rural rusty sad safe salty same sane sarcastic satisfied savory scaly \
    scarce scary scented scientific scornful scratchy scrawny second secondary secular selfish \
    senior sensible separate serious several severe shabby shadowy shady shameful sharp shimmering \
    shocked shoddy showy shrill sick silky silly similar sincere single skeletal skilled sleek \
    slight slim slimy slippery sloppy slushy smart smoggy smug snappy snarling sneaky snobby social \
    soggy sore sorrowful sour sparkling sparse special specific speedy spherical spicy spiffy spiky \
    spirited spiteful splendid spotless spotted sprightly squeaky stale standard stark starry steep \
    stiff stingy stout straight strict striking striped stunning stylish sudden sugary sulky superb \
    superior supportive supreme surprised suspicious svelte sweltering swollen sympathetic tacky \
    talkative tan tangible tangy tart tasty tattered taut tedious teeming tense tepid terrible \
    terrific testy thick thin third thorny thorough thoughtful thrifty tight timely tinted torn \
    total tough tragic trained tranquil trim trivial tropical troubled true truthful twin typical \
    ultimate unique united unlucky unruly unsung untidy upbeat urban urgent useful useless usual \
    utter vacant vain valid vapid vast vibrant vicious victorious vigilant vigorous villainous \
    violent virtual visible vital vivid volatile wan warlike warped wary wasteful watery wavy weak \
    wealthy weekly weighty weird well wet whimsical whirlwind whispered whole wicked wiggly willing \
    wilted winding winged wiry witty woeful wonderful woozy wordy worldly worn worried worse worthy \
    wrathful wrong wry yearly yummy zany zealous zesty";

/// Verbs. None is a noun or an adjective of the lists above.
const VERB_LIST: &str = "abandon absorb accept accompany achieve acknowledge acquire adapt add address adjust admire \
    admonish adopt advance advise afford agree aim alarm allow alter amaze amuse announce annoy \
    answer appear applaud apply appoint appreciate approach approve argue arrange arrest arrive ask \
    assemble assert assign assist assume assure attach attack attain attempt attend attract avoid \
    await bake balance bathe behave believe belong bless blink block boast boil borrow bounce bow \
    breathe brew brighten broaden browse bury buzz calculate call cancel capture carry carve cause \
    celebrate challenge charge chase cheat cheer chew choke claim clarify classify climb clutch \
    collapse collect combine comfort command comment compare compete compile complain compose \
    compute conceal conclude conduct confess confirm confuse connect conquer consider consist \
    construct consult consume contact contain continue contribute convert convince copy cough count \
    cover crack crash crawl create cross crush cry cure cycle damage dare deceive decide declare \
    decorate decrease dedicate defend define delay delegate deliver demand demolish deny depart \
    depend describe deserve design desire destroy detach detect develop devote differ digest \
    diminish disagree disappear discover discuss dislike dismiss display dissolve divide donate \
    doubt draft drain drift drown earn educate embrace emerge employ empower enclose encounter \
    encourage endure engage enhance enjoy enlarge ensure enter entertain escape establish estimate \
    evaluate evolve examine exceed exchange excite exclude excuse exercise exhaust exist expand \
    expect explain explode explore export express extend fail fasten favor fear fetch file fill film \
    finish fix flash float flow fold follow force form found frighten fry function gain gather gaze \
    generate glance glow govern greet guarantee guard guess handle happen harm hate haunt heal heat \
    help hesitate hire hope hover hunt hurry identify ignore imagine impress improve include \
    increase indicate influence inform inherit inject insert insist inspect inspire install intend \
    interest interrupt introduce invade invent invest investigate invite involve irritate itch join \
    joke juggle jump justify kick kiss knock laugh launch lecture lengthen lick lift listen load \
    locate look love lower maintain manage march mark marry master matter measure melt memorize mend \
    mention merge migrate mix moan modify mourn move multiply mutter name narrate narrow need \
    neglect negotiate notice notify nourish obey object observe obtain occupy offend offer operate \
    oppose order organize overflow owe own pack park part participate pass paste pause perform \
    persuade pinch play plead please point polish ponder possess pour practice praise pray preach \
    predict prepare present preserve press pretend prevent proceed proclaim produce profit progress \
    promise promote pronounce propose protect protest prove provide publish pull punish purchase \
    pursue push qualify question queue race raise reach react realize receive recite reckon \
    recognize recommend record recover reduce reflect refresh refuse regard register rehearse reject \
    rejoice relate relax release rely remain remark remember remind remove renew rent repair repeat \
    replace reply report represent request require rescue research reserve resist resolve respect \
    respond rest restore restrict result retain retire return reveal review revise reward rinse risk \
    roar roast rotate ruin rule rush sail satisfy save scatter scold scrape scratch scream search \
    seem select serve settle share shift shiver shock shout sigh sign simplify smash smile sneeze \
    sniff soak solve soothe sparkle speculate splash squeeze stare start startle stay stretch \
    struggle stumble succeed suffer suggest supply support suppose surprise surrender surround \
    survive suspect suspend swallow switch talk taste tease tempt test thank thrive tickle tie touch \
    tour trace trade transform translate transport travel treat tremble trick trust try tumble turn \
    twist unite unlock unpack update upgrade urge use vanish vary venture verify visit volunteer \
    vote wait wake walk wander want warn wash waste weaken weigh welcome whisper widen wink wipe \
    wish witness wonder work worry wrestle yawn yell yield zoom";

static NOUNS: LazyLock<Vec<&'static str>> = LazyLock::new(|| words(&[NOUN_LIST]));

static ADJECTIVES: LazyLock<Vec<&'static str>> = LazyLock::new(|| words(&[ADJECTIVE_LIST]));

/// Draws a key, an adjective and a noun such as `airy-acorn`. Two different keys never contain each
/// other, because no adjective ends with another one and no noun begins with another one.
pub(super) fn key(random: &mut Xoshiro256PlusPlus) -> String {
    format!("{}-{}", one_of(&ADJECTIVES, random), one_of(&NOUNS, random))
}

/// All keys.
#[cfg(test)]
pub(super) fn keys() -> impl Iterator<Item = String> {
    let pairs = |adjective| NOUNS.iter().map(move |noun| format!("{adjective}-{noun}"));
    ADJECTIVES.iter().flat_map(pairs)
}

/// A list of words to draw from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WordList {
    /// The nouns, adjectives and verbs.
    Simple,
    /// Two nouns in one word, such as `acornbadge`. There are enough for millions of tokens.
    Compound,
}

impl WordList {
    /// The most words that can be asked for.
    pub(super) fn len(self) -> usize {
        match self {
            Self::Simple => NOUNS.len() + ADJECTIVES.len() + words(&[VERB_LIST]).len(),
            // Half of all pairs, so that a draw soon finds a new one.
            Self::Compound => NOUNS.len() * (NOUNS.len() - 1) / 2,
        }
    }

    /// Draws `count` different words, or fewer where the list ends. None of them contains one of the
    /// first `apart` words. With the same random numbers, a longer draw begins with the shorter one.
    pub(super) fn draw(
        self,
        count: usize,
        apart: usize,
        random: &mut Xoshiro256PlusPlus,
    ) -> Vec<String> {
        let count = count.min(self.len());
        let mut drawn = Drawn::new(apart);
        match self {
            Self::Simple => {
                let mut list = words(&[NOUN_LIST, ADJECTIVE_LIST, VERB_LIST]);
                list.shuffle(random);
                let mut list = list.into_iter();
                while drawn.words.len() < count
                    && let Some(word) = list.next()
                {
                    drawn.add(word.into());
                }
            }
            // Ends, because at most half of all pairs is asked for.
            Self::Compound => {
                while drawn.words.len() < count {
                    let (first, second) = (one_of(&NOUNS, random), one_of(&NOUNS, random));
                    if first != second {
                        drawn.add(format!("{first}{second}"));
                    }
                }
            }
        }
        drawn.words
    }
}

/// Words drawn so far.
struct Drawn {
    words: Vec<String>,
    seen: HashSet<String>,
    apart: usize,
}

impl Drawn {
    fn new(apart: usize) -> Self {
        Self {
            words: Vec::new(),
            seen: HashSet::new(),
            apart,
        }
    }

    /// Adds a word, unless it was drawn before or contains one that stands apart.
    fn add(&mut self, word: String) {
        let apart = &self.words[..self.apart.min(self.words.len())];
        let stands_apart = self.words.len() < self.apart;
        let clashes = |other: &String| {
            word.contains(other.as_str()) || (stands_apart && other.contains(&word))
        };
        if !apart.iter().any(clashes) && self.seen.insert(word.clone()) {
            self.words.push(word);
        }
    }
}

fn words(lists: &[&'static str]) -> Vec<&'static str> {
    lists
        .iter()
        .flat_map(|list| list.split_ascii_whitespace())
        .collect()
}

/// One word of a list; the lists are not empty.
fn one_of(list: &[&'static str], random: &mut Xoshiro256PlusPlus) -> &'static str {
    let index = random.random_range(0..list.len().max(1));
    list.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn lists_hold_many_different_words() {
        assert!(NOUNS.len() >= 200 && ADJECTIVES.len() >= 200);
        let all = words(&[NOUN_LIST, ADJECTIVE_LIST, VERB_LIST]);
        assert_eq!(all.len(), WordList::Simple.len());
        assert!(all.len() >= 2000, "{}", all.len());
        let different: HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert!(
            all.iter()
                .all(|word| word.len() > 1 && word.bytes().all(|b| b.is_ascii_lowercase()))
        );
    }

    #[test]
    fn keys_never_contain_each_other() {
        for noun in NOUNS.iter() {
            let longer = |other: &&&str| *other != noun && other.starts_with(noun);
            assert_eq!(NOUNS.iter().find(longer), None, "{noun}");
        }
        for adjective in ADJECTIVES.iter() {
            let longer = |other: &&&str| *other != adjective && other.ends_with(adjective);
            assert_eq!(ADJECTIVES.iter().find(longer), None, "{adjective}");
        }
    }

    #[test]
    fn longer_draws_begin_with_shorter_ones() {
        for list in [WordList::Simple, WordList::Compound] {
            let draw = |count| list.draw(count, 10, &mut Xoshiro256PlusPlus::seed_from_u64(3));
            let (short, long) = (draw(50), draw(1500));
            assert_eq!(short[..], long[..50]);
            let different: HashSet<_> = long.iter().collect();
            assert_eq!(different.len(), 1500);
            for (index, word) in long[..10].iter().enumerate() {
                let others = long.iter().enumerate().filter(|(at, _)| *at != index);
                for (_, other) in others {
                    assert!(!other.contains(word.as_str()), "{word} {other}");
                }
            }
        }
    }
}
