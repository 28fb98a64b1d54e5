//! The channels through which bids come, each with its url.

use crate::random::{Key, below};
use crate::text::MadeText;

/// Channels that half of all bids come through.
const HOT: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];
/// Channels that share the other half.
const N_COLD: u64 = 10_000;

/// The channels and their urls, made once.
pub(super) struct Channels {
    /// Hot channels first.
    names: Vec<MadeText<12>>,
    urls: Vec<MadeText<80>>,
}

impl Channels {
    pub(super) fn new(seed: u64) -> Self {
        let key = Key::new(seed, "channel.url");
        let mut names: Vec<_> = HOT.iter().map(|name| MadeText::new(name)).collect();
        let mut urls: Vec<_> = (0..).take(HOT.len()).map(|i| MadeText::new(&base_url(key.at(N_COLD + i)))).collect();
        for i in 0..N_COLD {
            names.push(MadeText::new(&format!("channel-{i}")));
            let mut url = base_url(key.at(i));
            // One in ten cold urls does not say its channel.
            if below(key.at(i).word(1), 10) > 0 {
                url.push_str(&format!("&channel_id={}", channel_id(i)));
            }
            urls.push(MadeText::new(&url));
        }
        Channels { names, urls }
    }

    /// A bid's channel, as the index for [`Self::name`] and [`Self::url`].
    #[inline]
    pub(super) fn pick(&self, word: u64) -> usize {
        let n_hot = HOT.len() as u64;
        let (hot, cold) = (below(word, n_hot), n_hot + below(word, N_COLD));
        // A branch would be mispredicted every other time.
        let all_if_hot = (word & 1).wrapping_neg();
        (hot & all_if_hot | cold & !all_if_hot) as usize
    }

    /// The channel's name.
    #[inline]
    pub(super) fn name(&self, channel: usize) -> &MadeText<12> {
        &self.names[channel]
    }

    /// The channel's url.
    #[inline]
    pub(super) fn url(&self, channel: usize) -> &MadeText<80> {
        &self.urls[channel]
    }
}

/// The number of a cold channel in its url: its bits in reverse order, without the sign.
fn channel_id(channel: u64) -> u32 {
    (channel as u32).reverse_bits().cast_signed().unsigned_abs()
}

/// `https://www.nexmark.com/abc/de_f/ghi/item.htm?query=1`: three random directories of three or four characters.
fn base_url(key: Key) -> String {
    let mut url = String::from("https://www.nexmark.com/");
    let mut words = (2..).map(|i| key.word(i));
    let mut draw = |n| below(words.next().expect("words never end"), n);
    for _ in 0..3 {
        for _ in 0..3 + draw(2) {
            url.push(if draw(13) == 0 { '_' } else { char::from(b'a' + draw(26) as u8) });
        }
        url.push('/');
    }
    url.push_str("item.htm?query=1");
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_the_published_form() {
        assert_eq!([0, 1, 2, 3].map(channel_id), [0, 1 << 31, 1 << 30, 1 << 30]);
        let channels = Channels::new(0);
        let n_with_id = channels.urls.iter().filter(|url| url.as_str().contains("&channel_id=")).count();
        assert!((8_800..9_200).contains(&n_with_id), "{n_with_id}");
        for url in channels.urls.iter().map(MadeText::as_str) {
            let parts: Vec<_> = url.split('/').collect();
            assert_eq!((parts.len(), parts[2]), (7, "www.nexmark.com"), "{url}");
            assert!(parts[3..6].iter().all(|p| (3..=4).contains(&p.len())), "{url}");
        }
        assert!(HOT.iter().enumerate().all(|(i, name)| channels.name(i).as_str() == *name));
    }
}
