//! Words for mood and genre.

use super::{Entry, Words};
use crate::attributes::Mood;
use crate::genre::Genre;

const MOOD_AFTER: Words = &[
    "with a {} mood",
    "with a {} feel",
    "that feels {}",
    "with a {} atmosphere",
    "in a {} mood",
    "with a {} character",
    "with a {} vibe",
    "of a {} nature",
    "with something {} about it",
    "full of {noun}",
    "evoking {noun}",
    "that breathes {noun}",
    "with a sense of {noun}",
    "suited to {scene}",
    "for {scene}",
    "fit for {scene}",
    "that suggests {scene}",
];

const MOOD_SENTENCES: Words = &[
    "The mood is {}",
    "It feels {}",
    "It should feel {}",
    "The atmosphere is {}",
    "Mood: {}",
    "It suggests {noun}",
    "The feeling is one of {noun}",
    "It would suit {scene}",
    "Think of {scene}",
    "It calls up {scene}",
    "Make it {}",
];

/// Adjectives, nouns and scenes of a mood.
pub struct MoodWords {
    /// How it feels.
    pub entry: Entry,
    /// What is felt, for `{noun}`.
    pub nouns: Words,
    /// Where it would be heard, for `{scene}`.
    pub scenes: Words,
}

/// Words for a mood.
pub fn mood(mood: Mood) -> MoodWords {
    let (adjectives, nouns, scenes): (Words, Words, Words) = match mood {
        Mood::Happy => (
            &[
                "happy",
                "cheerful",
                "joyful",
                "sunny",
                "merry",
                "glad",
                "jolly",
                "feel-good",
                "jubilant",
                "cheery",
                "delighted",
            ],
            &["joy", "happiness", "cheer", "delight", "good spirits"],
            &["a birthday party", "a summer picnic", "a holiday video", "a wedding celebration", "a day at the beach"],
        ),
        Mood::Sad => (
            &[
                "sad",
                "sorrowful",
                "melancholic",
                "mournful",
                "tearful",
                "heartbroken",
                "melancholy",
                "wistful",
                "downcast",
                "plaintive",
            ],
            &["sadness", "grief", "sorrow", "loss", "heartache", "melancholy"],
            &["a farewell scene", "a rainy window", "a funeral", "the end of a love story", "a lonely evening"],
        ),
        Mood::Calm => (
            &[
                "calm",
                "peaceful",
                "serene",
                "tranquil",
                "soothing",
                "restful",
                "placid",
                "meditative",
                "quieting",
                "untroubled",
            ],
            &["calm", "peace", "rest", "stillness", "serenity"],
            &["meditation", "a yoga class", "falling asleep", "a spa", "reading by the lake", "a quiet morning"],
        ),
        Mood::Energetic => (
            &[
                "energetic",
                "lively",
                "vigorous",
                "exciting",
                "dynamic",
                "spirited",
                "driving",
                "pumped-up",
                "animated",
                "electrifying",
            ],
            &["energy", "excitement", "drive", "vigour", "adrenaline"],
            &["a workout", "a sports montage", "a car chase", "a morning run", "an action game"],
        ),
        Mood::Tense => (
            &[
                "tense",
                "suspenseful",
                "anxious",
                "nervous",
                "uneasy",
                "edgy",
                "restless",
                "agitated",
                "nail-biting",
                "worried",
            ],
            &["tension", "suspense", "unease", "anxiety", "danger"],
            &["a thriller", "a chase through the night", "a bomb being defused", "a spy film", "a heist"],
        ),
        Mood::Dreamy => (
            &[
                "dreamy",
                "floating",
                "hazy",
                "ethereal",
                "drifting",
                "otherworldly",
                "hypnotic",
                "dreamlike",
                "weightless",
                "trance-like",
            ],
            &["dreams", "reverie", "weightlessness", "drifting", "wonder"],
            &["a dream sequence", "floating in space", "clouds drifting by", "an underwater scene", "a fairy tale"],
        ),
        Mood::Gloomy => (
            &[
                "gloomy",
                "ominous",
                "brooding",
                "sinister",
                "bleak",
                "grim",
                "foreboding",
                "menacing",
                "sombre",
                "haunted",
            ],
            &["gloom", "dread", "doom", "foreboding", "despair"],
            &["a horror film", "a haunted house", "a villain's entrance", "an abandoned city", "a graveyard at night"],
        ),
        Mood::Romantic => (
            &[
                "romantic",
                "tender",
                "loving",
                "affectionate",
                "intimate",
                "passionate",
                "amorous",
                "heartfelt",
                "sentimental",
            ],
            &["love", "romance", "tenderness", "affection", "longing"],
            &["a candlelit dinner", "a first kiss", "a love scene", "a dance for two", "a wedding ceremony"],
        ),
        Mood::Epic => (
            &[
                "epic",
                "heroic",
                "grand",
                "majestic",
                "triumphant",
                "monumental",
                "glorious",
                "sweeping",
                "larger-than-life",
                "stirring",
            ],
            &["grandeur", "glory", "triumph", "heroism", "majesty"],
            &["a battle scene", "a film trailer", "a hero's return", "a fantasy adventure", "an opening ceremony"],
        ),
        Mood::Playful => (
            &[
                "playful",
                "quirky",
                "whimsical",
                "mischievous",
                "funny",
                "cheeky",
                "bouncy",
                "childlike",
                "humorous",
                "frolicsome",
            ],
            &["fun", "mischief", "play", "humour", "whimsy"],
            &["a children's cartoon", "a puppet show", "a cooking video", "kittens playing", "a comedy sketch"],
        ),
        Mood::Nostalgic => (
            &[
                "nostalgic",
                "bittersweet",
                "reflective",
                "reminiscent",
                "old-time",
                "thoughtful",
                "pensive",
                "retrospective",
            ],
            &["nostalgia", "memories", "old times", "remembrance", "reflection"],
            &["an old photo album", "childhood memories", "a home movie", "an autumn walk", "a train ride home"],
        ),
        Mood::Mysterious => (
            &[
                "mysterious",
                "enigmatic",
                "strange",
                "eerie",
                "secretive",
                "curious",
                "puzzling",
                "uncanny",
                "spellbound",
            ],
            &["mystery", "secrets", "the unknown", "intrigue", "enchantment"],
            &["a detective story", "a hidden cave", "a magic spell", "a puzzle game", "fog over a forest"],
        ),
        Mood::Hopeful => (
            &[
                "hopeful",
                "uplifting",
                "optimistic",
                "inspiring",
                "encouraging",
                "positive",
                "heartening",
                "promising",
                "confident",
            ],
            &["hope", "optimism", "confidence", "inspiration", "a new beginning"],
            &["a charity film", "a graduation", "a sunrise", "a startup video", "a documentary with a good ending"],
        ),
        Mood::Aggressive => (
            &["aggressive", "angry", "fierce", "furious", "violent", "brutal", "raging", "hostile", "savage"],
            &["anger", "rage", "fury", "aggression", "wrath"],
            &["a boss fight", "a street fight", "a riot", "a wrestling match", "a monster attack"],
        ),
    };
    let entry = Entry { adjectives, after: MOOD_AFTER, sentences: MOOD_SENTENCES, tags: &[] };
    MoodWords { entry, nouns, scenes }
}

const GENRE_AFTER: Words = &[
    "in a {} style",
    "in the style of {}",
    "with a {} feel",
    "with {} influences",
    "in the {} genre",
    "in a {} idiom",
    "that could pass for {}",
    "rooted in {}",
];

const GENRE_SENTENCES: Words =
    &["The style is {}", "The genre is {}", "Genre: {}", "Style: {}", "It is {}", "Think {}", "Stylistically it is {}"];

/// Words for a genre.
pub fn genre(genre: Genre) -> Entry {
    let (adjectives, tags): (Words, Words) = match genre {
        Genre::Pop => (&["pop", "radio pop", "chart pop", "mainstream pop", "poppy"], &["pop music", "top 40"]),
        Genre::Rock => {
            (&["rock", "rock and roll", "classic rock", "indie rock", "rocking"], &["rock music", "rock band"])
        }
        Genre::Jazz => {
            (&["jazz", "swing", "jazzy", "jazz club", "swinging"], &["jazz music", "swing feel", "jazz standard"])
        }
        Genre::Blues => (&["blues", "bluesy", "delta blues", "twelve-bar style blues"], &["blues music", "shuffle"]),
        Genre::Folk => {
            (&["folk", "folky", "singer-songwriter", "traditional", "fireside folk"], &["folk music", "folk song"])
        }
        Genre::Classical => (
            &["classical", "chamber", "baroque-style", "concert-hall", "classical-style"],
            &["classical music", "chamber music"],
        ),
        Genre::Ambient => {
            (&["ambient", "atmospheric", "soundscape-like", "new-age"], &["ambient music", "soundscape", "new age"])
        }
        Genre::Techno => (
            &["techno", "electronic", "rave", "EDM", "club techno"],
            &["techno music", "electronic music", "electronica"],
        ),
        Genre::House => (
            &["house", "house-style", "dance", "club house", "disco-house"],
            &["house music", "dance music", "club music"],
        ),
        Genre::HipHop => {
            (&["hip hop", "hip-hop", "rap", "boom bap", "trap-style"], &["hip hop instrumental", "rap instrumental"])
        }
        Genre::LoFi => (
            &["lo-fi", "lofi", "chillhop", "chill", "study-room lo-fi"],
            &["lofi chill", "chill music", "lo-fi study music"],
        ),
        Genre::Funk => {
            (&["funk", "funky", "soul-funk", "seventies funk", "groovy funk"], &["funk music", "funky groove"])
        }
        Genre::Reggae => {
            (&["reggae", "roots reggae", "Jamaican", "ska-like", "island reggae"], &["reggae music", "off-beat skank"])
        }
        Genre::Bossa => {
            (&["bossa nova", "latin", "Brazilian", "bossa", "samba-like"], &["latin music", "bossa nova style"])
        }
        Genre::Country => (
            &["country", "western", "Nashville", "country-and-western", "bluegrass-like"],
            &["country music", "americana"],
        ),
        Genre::Cinematic => (
            &["cinematic", "film-score", "soundtrack", "movie", "orchestral-style"],
            &["film music", "soundtrack", "score"],
        ),
        Genre::Metal => {
            (&["metal", "heavy metal", "thrash", "headbanging", "power metal"], &["metal music", "heavy riffs"])
        }
    };
    Entry { adjectives, after: GENRE_AFTER, sentences: GENRE_SENTENCES, tags }
}
