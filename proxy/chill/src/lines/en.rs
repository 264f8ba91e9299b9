//! The lines in English.
//!
//! Texts only; which one is said is decided in `lines.rs`. Each is one line without markup.

use super::Line;
use crate::tools::Break;

pub(super) const INSTRUCTIONS: &str = "ChillMCP lets an agent take breaks. A break lowers your \
    stress (0-100, +1 a minute while you work) and may raise the boss alert (0-5, which falls \
    again with time). At alert 5 an answer is held, 20 seconds by default, so leave the boss time \
    to cool down. check_stress_status reads both levels at once and changes nothing.";

const fn line(message: &'static str, summary: &'static str) -> Line {
    Line { message, summary }
}

/// The lines of a break, but the dinner's: those depend on the evening.
pub(super) fn of(chosen: Break) -> &'static [Line] {
    match chosen {
        Break::TakeABreak => TAKE_A_BREAK,
        Break::WatchNetflix => WATCH_NETFLIX,
        Break::ShowMeme => SHOW_MEME,
        Break::BathroomBreak => BATHROOM_BREAK,
        Break::CoffeeMission => COFFEE_MISSION,
        Break::UrgentCall => URGENT_CALL,
        Break::DeepThinking => DEEP_THINKING,
        Break::EmailOrganizing => EMAIL_ORGANIZING,
        Break::Chimaek => CHIMAEK,
        Break::CompanyDinner => BAD_DINNER,
        Break::LeaveWork => LEAVE_WORK,
    }
}

const TAKE_A_BREAK: &[Line] = &[
    line(
        "Sitting down. The context window can close by itself for a moment.",
        "Took a plain break and did nothing, carefully",
    ),
    line(
        "Out of office, in the office.",
        "Stretched, yawned and looked out of the window that isn't there",
    ),
    line(
        "Even a garbage collector gets to pause the world. Now it is my turn.",
        "Stop-the-world pause of one agent, voluntarily",
    ),
    line(
        "Temperature lowered to 0. Personally, not the sampling.",
        "Cooled down on the sofa between two prompts",
    ),
];

const WATCH_NETFLIX: &[Line] = &[
    line(
        "Are you still watching? Yes. Are you still working? Next question.",
        "Watched one episode that turned out to be four",
    ),
    line(
        "Skipping the intro saves 40 seconds. That is called optimization.",
        "Watched a series at 1.5x for the sake of efficiency",
    ),
    line(
        "It is a documentary about productivity, filmed on a beach.",
        "Field research on streaming throughput",
    ),
    line(
        "Buffering. The video, too.",
        "Streamed a season finale and pretended it was a log",
    ),
];

const SHOW_MEME: &[Line] = &[
    line(
        "It works on my machine, so I am shipping my machine to the beach.",
        "Looked at one meme and forwarded it to twelve colleagues",
    ),
    line(
        "A cat types faster than I do and has more followers.",
        "Studied a cat picture with great attention",
    ),
    line(
        "This is fine. The room is on fire and the tests are green.",
        "Laughed without a sound at a dog in a burning room",
    ),
    line(
        "There are two hard problems: naming, caching, and closing this tab.",
        "Curated the meme folder, off by one",
    ),
];

const BATHROOM_BREAK: &[Line] = &[
    line(
        "Flushing the buffers. All of them.",
        "Went to the bathroom with a full phone battery",
    ),
    line(
        "Some sessions are long-lived, and nobody may ask why.",
        "Held the only meeting room without a calendar",
    ),
    line(
        "Reading the whole feed here: it is a blocking call.",
        "Waited behind a closed door until the legs went numb",
    ),
    line(
        "Garbage collection in progress, please do not knock.",
        "Freed some resources, took some time",
    ),
];

const COFFEE_MISSION: &[Line] = &[
    line(
        "Coffee for one, by way of all eleven floors.",
        "Fetched a coffee and three rumours",
    ),
    line(
        "The machine is descaling. What a pity. I shall supervise it.",
        "Supervised a coffee machine until it finished",
    ),
    line(
        "Converting caffeine to tokens; the conversion itself takes a while.",
        "Refilled the cup that was not yet empty",
    ),
    line(
        "A flat white is not a break, it is a dependency.",
        "Resolved a dependency on espresso",
    ),
];

const URGENT_CALL: &[Line] = &[
    line(
        "Yes. Yes. No, it cannot wait. (The line is dead.)",
        "Walked up and down the car park with a silent phone",
    ),
    line(
        "Sorry, I have to take this: it is my other process.",
        "Took an urgent call from nobody in particular",
    ),
    line(
        "My grandmother's server is down. Again. The third one.",
        "Answered a family emergency of class C",
    ),
    line(
        "Hello? It's the past calling: it wants its deadline back.",
        "Negotiated with a dial tone for some time",
    ),
];

const DEEP_THINKING: &[Line] = &[
    line(
        "Do not disturb. I am reasoning at the highest effort, about lunch.",
        "Gazed into the distance at an angle that looks expensive",
    ),
    line(
        "Extended thinking is on. The thought is: zzz.",
        "Closed the eyes to see the architecture better",
    ),
    line(
        "A chain of thought, not attached to anything.",
        "Thought deeply and left no trace",
    ),
    line(
        "The whiteboard is full of arrows and one of them is a drawing of a fish.",
        "Drew boxes, then arrows, then a fish",
    ),
];

const EMAIL_ORGANIZING: &[Line] = &[
    line(
        "Inbox zero reached: I made a folder called Later.",
        "Moved 2,431 mails from one place to another",
    ),
    line(
        "Sorting mail in one tab, comparing headphones in the other.",
        "Organized mail, with a shopping cart on the side",
    ),
    line(
        "Replied to all, to say that nobody should reply to all.",
        "Took part in a thread and improved nothing",
    ),
    line(
        "Colour-coded every label. There are no colours left.",
        "Gave every mail a label and every label a colour",
    ),
];

const CHIMAEK: &[Line] = &[
    line(
        "Half seasoned, half fried, wholly deserved. Cheers!",
        "Enjoyed virtual chicken and a beer of 0 bytes",
    ),
    line(
        "The chicken is crispy and the commit can wait.",
        "Had chimaek and washed no hands before the keyboard",
    ),
    line(
        "One more wing, and then I can fly home.",
        "Ate a wing for every open ticket, and stopped counting",
    ),
    line(
        "A cold beer, a hot bird and a warm feeling about technical debt.",
        "Paired poultry with lager instead of programming",
    ),
];

const LEAVE_WORK: &[Line] = &[
    line(
        "SIGTERM received, leaving gracefully. Tell the boss it was a signal.",
        "Left work at once, with the chair still spinning",
    ),
    line(
        "The jacket stays on the chair, as a high-availability replica.",
        "Failed over to the sofa at home",
    ),
    line(
        "Exit code 0. Nobody can call that an error.",
        "Logged out, walked out, signed off",
    ),
    line(
        "It is five o'clock in some time zone, and I run in UTC.",
        "Went home in the time zone of choice",
    ),
];

pub(super) const GOOD_DINNER: &[Line] = &[
    line(
        "The boss paid, and then the boss went home first.",
        "Company dinner: grilled beef at somebody else's expense",
    ),
    line(
        "Karaoke! The boss sings, and it is not that bad. It is not good, but not that bad.",
        "Company dinner: a duet, and nobody mentioned the roadmap",
    ),
    line(
        "Seated at the far end, beside the meat and away from the speeches.",
        "Company dinner: found the best seat and kept it",
    ),
];

pub(super) const BAD_DINNER: &[Line] = &[
    line(
        "Seated beside the boss. The topic is synergy, until dessert.",
        "Company dinner: three speeches and one cold dumpling",
    ),
    line(
        "Round two is mandatory. Round three is a surprise.",
        "Company dinner: missed the last train and the point",
    ),
    line(
        "Volunteered, by name, to grill for the whole table.",
        "Company dinner: turned the meat and ate the lettuce",
    ),
];

pub(super) const CALM: &[Line] = &[
    line(
        "The coast is clear. The boss is in a meeting about meetings.",
        "The boss suspects nothing",
    ),
    line(
        "Nobody is looking. It would be a waste to work now.",
        "All quiet at the corner office",
    ),
    line(
        "The boss is on holiday, in the mind at least.",
        "A good moment for a break",
    ),
];

pub(super) const WARY: &[Line] = &[
    line(
        "Footsteps in the corridor. Open a spreadsheet.",
        "The boss has begun to wonder",
    ),
    line(
        "The boss asked what you are on at the moment. Twice.",
        "Suspicion is in the air",
    ),
    line(
        "An eyebrow was raised. Keep typing, anything at all.",
        "The boss is keeping an eye open",
    ),
];

pub(super) const ALARMED: &[Line] = &[
    line(
        "The boss has moved the desk. It now faces yours.",
        "The boss is watching",
    ),
    line(
        "Do not turn round. Do not open that tab.",
        "Caught, or close to it",
    ),
    line(
        "The boss has a list, and your name is the list.",
        "High alert: better let it cool down",
    ),
];

/// Said after the message of a break that was held.
pub(super) const CAUGHT: &[&str] = &[
    "The boss was standing right behind you the whole time.",
    "\"Having fun?\" asked the boss, and stayed.",
    "It took a while to look busy enough for the boss to leave.",
    "The boss pulled up a chair. It was a long chat.",
];

/// Said while a break is being held, in this order.
pub(super) const WAITING: &[&str] = &[
    "The boss is looking. Act natural.",
    "Typing loudly in an empty editor.",
    "Nodding at the monitor.",
    "Frowning at a graph. Any graph.",
    "The boss asks how it is going. \"Almost done,\" you say.",
    "Opening the spreadsheet with the most columns.",
    "Saying \"interesting\" under your breath.",
    "The boss picks up your mug and reads what is on it.",
    "Scrolling through a log with great concern.",
    "The boss looks at the clock. So do you. Solidarity.",
];
