//! Charts as SVG: lines over a logarithmic axis, and stacked bars. No script, no font, no colour of their own: the page's style
//! gives those by class.

use std::fmt::Write as _;

use crate::report::thousands;

/// How the horizontal axis is divided. The vertical one is logarithmic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// From 0.
    Linear,
    /// From the least value to the greatest.
    Log,
}

/// One line of a chart.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// Titles of a chart and its axes.
pub(super) struct Titles<'a> {
    pub(super) chart: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
}

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 52.0;
const BAR: f64 = 16.0;
const NAMES: f64 = 120.0;

/// Text as it stands in a page.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Not allowed in a page, in whatever form.
            control if control.is_control() && control != '\n' => out.push(' '),
            other => out.push(other),
        }
    }
    out
}

/// A number in few digits, as axes have them: 1.5 k, 2 M.
pub(super) fn short(number: f64) -> String {
    let (value, unit) = match number.abs() {
        size if size >= 1e6 => (number / 1e6, " M"),
        size if size >= 1e4 => (number / 1e3, " k"),
        _ => (number, ""),
    };
    let digits = if value.abs() >= 100.0 { 0 } else { 2 };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// The greatest of 1, 2, 5 × a power of ten that is not above, or the least that is not below.
fn rounded(number: f64, up: bool) -> f64 {
    let power = 10f64.powf(number.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    let tolerance = 1.0 + 1e-9;
    if up {
        steps.into_iter().find(|step| step * tolerance >= number).unwrap_or(10.0 * power)
    } else {
        steps.into_iter().rev().find(|step| *step <= number * tolerance).unwrap_or(power)
    }
}

/// Places on the logarithmic axis from `low` to `high`: 1, 2, 5 of each power of ten, or only powers if they are many.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let steps: &[f64] = if high / low > 1e3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let all = (first..=last).flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
    all.filter(|tick| (low * 0.999..=high * 1.001).contains(tick)).collect()
}

/// A chart of lines; empty if there is nothing to draw. `mark` is a vertical line with a name.
pub(super) fn lines(
    titles: &Titles<'_>,
    scale: Scale,
    series: &[Series],
    mark: Option<(f64, &str)>,
) -> String {
    let is_drawn = |(x, y): &(f64, f64)| x.is_finite() && y.is_finite() && *y > 0.0 && *x > 0.0;
    let points: Vec<(f64, f64)> =
        series.iter().flat_map(|one| one.points.iter().copied()).filter(is_drawn).collect();
    let mut xs: Vec<f64> = points.iter().map(|(x, _)| *x).collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    let (Some(first), Some(last)) = (xs.first(), xs.last()) else { return String::new() };
    let (low, high) = points.iter().fold((f64::MAX, 0f64), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
    let (low, high) = (rounded(low, false), rounded(high, true).max(rounded(low, false) * 2.0));
    let last = mark.map_or(*last, |(at, _)| last.max(at));
    let across = |x: f64| {
        let share = match scale {
            Scale::Linear => x / last,
            Scale::Log if last > *first => (x / first).ln() / (last / first).ln(),
            Scale::Log => 0.5,
        };
        LEFT + 10.0 + share * (WIDTH - LEFT - RIGHT - 20.0)
    };
    let up = |y: f64| HEIGHT - BOTTOM - (y / low).ln() / (high / low).ln() * (HEIGHT - TOP - BOTTOM);

    let mut svg = open(titles.chart, WIDTH, HEIGHT);
    for tick in ticks(low, high) {
        let (y, right) = (up(tick), WIDTH - RIGHT);
        let _ = write!(svg, r#"<line class="grid" x1="{LEFT}" y1="{y:.1}" x2="{right}" y2="{y:.1}"/>"#);
        text(&mut svg, (LEFT - 6.0, y + 4.0), "end", &short(tick));
    }
    for x in &xs {
        text(&mut svg, (across(*x), HEIGHT - BOTTOM + 16.0), "middle", &thousands(*x));
    }
    if let Some((at, name)) = mark {
        let (x, bottom) = (across(at), HEIGHT - BOTTOM);
        let _ = write!(svg, r#"<line class="mark" x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{bottom}"/>"#);
        text(&mut svg, (x - 4.0, TOP + 10.0), "end", name);
    }
    for (number, one) in series.iter().enumerate() {
        let places: Vec<(f64, f64)> =
            one.points.iter().filter(|at| is_drawn(at)).map(|(x, y)| (across(*x), up(*y))).collect();
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(svg, r#"<polyline class="line s{number}" points="{}"/>"#, path.join(" "));
        for ((x, y), (value_x, value_y)) in places.iter().zip(one.points.iter().filter(|at| is_drawn(at))) {
            let hint = format!("{}: {} at {}", one.name, short(*value_y), thousands(*value_x));
            let hint = escape(&hint);
            let _ = write!(
                svg,
                r#"<circle class="dot s{number}" cx="{x:.1}" cy="{y:.1}" r="3.5"><title>{hint}</title></circle>"#
            );
        }
    }
    legend(&mut svg, series.iter().map(|one| one.name.as_str()), LEFT);
    text(&mut svg, ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 14.0), "middle", titles.x);
    let y = escape(titles.y);
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    let _ = write!(
        svg,
        r#"<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{y}</text>"#
    );
    svg.push_str("</svg>");
    svg
}

/// Rows of stacked shares, each as wide as the whole: `rows` have a name, a note, and a value for each of `names`.
pub(super) fn shares(titles: &Titles<'_>, names: &[&str], rows: &[(String, String, Vec<f64>)]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let height = TOP + rows.len() as f64 * (BAR + 8.0) + BOTTOM;
    let wide = 2.0 * WIDTH;
    let (left, right) = (NAMES, 90.0);
    let room = wide - left - right;
    let mut svg = open(titles.chart, wide, height);
    for (number, (name, note, values)) in rows.iter().enumerate() {
        let y = TOP + number as f64 * (BAR + 8.0);
        text(&mut svg, (left - 6.0, y + BAR - 4.0), "end", name);
        text(&mut svg, (wide - right + 6.0, y + BAR - 4.0), "start", note);
        let sum: f64 = values.iter().sum();
        let mut x = left;
        for (at, value) in values.iter().enumerate().filter(|_| sum > 0.0) {
            let width = value / sum * room;
            let hint =
                escape(&format!("{name}, {}: {} µs, {:.0} %", names[at], short(*value), value / sum * 100.0));
            let _ = write!(
                svg,
                r#"<rect class="bar s{at}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{BAR}"><title>{hint}</title></rect>"#
            );
            x += width;
        }
    }
    legend(&mut svg, names.iter().copied(), left);
    let bottom = height - BOTTOM + 16.0;
    for percent in [0.0, 25.0, 50.0, 75.0, 100.0] {
        text(&mut svg, (left + room * percent / 100.0, bottom), "middle", &format!("{percent:.0} %"));
    }
    text(&mut svg, (left + room / 2.0, height - 14.0), "middle", titles.x);
    svg.push_str("</svg>");
    svg
}

fn open(title: &str, width: f64, height: f64) -> String {
    let title = escape(title);
    format!(r#"<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}"><title>{title}</title>"#)
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = escape(words);
    let _ = write!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#);
}

fn legend<'a>(svg: &mut String, names: impl Iterator<Item = &'a str>, left: f64) {
    let mut x = left;
    for (number, name) in names.enumerate() {
        let _ = write!(svg, r#"<rect class="bar s{number}" x="{x:.1}" y="10" width="10" height="10"/>"#);
        text(svg, (x + 14.0, 19.0), "start", name);
        x += 26.0 + 7.0 * name.chars().count() as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles() -> Titles<'static> {
        Titles { chart: "A & B", x: "bytes", y: "writes/s" }
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("a<b> & \"c\" 'd'\u{7}"), "a&lt;b&gt; &amp; &quot;c&quot; &#39;d&#39; ");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [2e6, 123_456.0, 16_384.0, 250.0, 0.5].map(short),
            ["2 M", "123 k", "16.38 k", "250", "0.5"]
        );
    }

    #[test]
    fn axis_covers_all_values_in_round_steps() {
        assert_eq!((rounded(37.0, false), rounded(37.0, true), rounded(50.0, true)), (20.0, 50.0, 50.0));
        assert_eq!((rounded(0.3, false), rounded(0.3, true)), (0.2, 0.5));
        assert_eq!(ticks(1.0, 10.0), [1.0, 2.0, 5.0, 10.0]);
        assert_eq!(ticks(1.0, 10_000.0).len(), 5);
    }

    #[test]
    fn points_are_within_the_chart_and_impossible_ones_are_left_out() {
        let points = vec![(16.0, 1e6), (1024.0, 1e4), (0.0, 5.0), (2.0, f64::NAN)];
        let series = [Series { name: "kv".into(), points }];
        for scale in [Scale::Linear, Scale::Log] {
            let svg = lines(&titles(), scale, &series, Some((2000.0, "closed")));
            assert_eq!(svg.matches("<circle").count(), 2, "{svg}");
            assert!(svg.contains("A &amp; B") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        assert_eq!(lines(&titles(), Scale::Log, &[], None), "");
        let one = [Series { name: "kv".into(), points: vec![(16.0, 7.0)] }];
        assert!(!lines(&titles(), Scale::Log, &one, None).contains("NaN"));
    }

    #[test]
    fn shares_fill_the_whole_bar() {
        let rows = [("kv-16".to_owned(), "4 µs".to_owned(), vec![3.0, 1.0])];
        let svg = shares(&titles(), &["worker", "net"], &rows);
        assert!(svg.contains("75 %") && svg.contains("25 %"), "{svg}");
        assert_eq!(shares(&titles(), &["worker"], &[]), "");
    }
}
