// The experiment that runs, or the last one: each variant's figures with their intervals, beside the first one's.

import { element } from "./page.js";

const percent = (share) => share.toLocaleString(undefined, { style: "percent", maximumFractionDigits: 2 });
const count = (value) => value.toLocaleString();

/** An interval on a line that goes from `least` to `most`, and the value in it. */
function interval({ low, value, high }, least, most) {
  const place = (at) => `${(100 * (at - least)) / (most - least || 1)}%`;
  const [line, point] = [element("i"), element("b")];
  Object.assign(line.style, { left: place(low), right: `calc(100% - ${place(high)})` });
  point.style.left = place(value);
  return element("span", { className: "interval", ariaHidden: "true" }, line, point);
}

function beside({ value, low, high, is_clear: isClear }, shown) {
  const signed = (one) => `${one < 0 ? "−" : "+"}${shown(Math.abs(one))}`;
  return `${signed(value)} (${signed(low)} to ${signed(high)})${isClear ? "" : ", not clear"}`;
}

function split({ variants }) {
  const columns = [["of the users, the share that"], ["variant"], ["value", "number"], [""], ["beside the first"]];
  const rows = variants[0].measures.flatMap(({ measure }) => {
    const same = variants.map(({ name, measures }) => [name, measures.find((one) => one.measure === measure)]);
    const told = same.filter(([, one]) => one);
    const [least, most] = [Math.min(...told.map(([, one]) => one.low)), Math.max(...told.map(([, one]) => one.high))];
    return told.map(([name, one], at) => {
      const shown = one.users === null ? (value) => value.toLocaleString(undefined, { maximumFractionDigits: 3 }) : percent;
      return [at ? "" : one.words, name, shown(one.value), interval(one, least, most), one.difference ? beside(one.difference, shown) : ""];
    });
  });
  const users = variants.map(({ name, users: own, lists, clicks }) => `${name}: ${count(own)} users, ${count(lists)} lists, ${count(clicks)} clicks`);
  return { columns, rows, caption: users.join(" · ") };
}

function drawn({ variants, preference, ties, users, lists, clicks }) {
  const columns = [["variant"], ["users won", "number"], ["of those that are no tie"]];
  const rows = variants.map(({ name, users_won: won }) => [
    name, count(won), name === preference.variant && preference.users ? interval(preference, 0, 1) : "",
  ]);
  return { columns, rows, caption: `${count(ties)} ties; ${count(users)} users, ${count(lists)} lists, ${count(clicks)} clicks` };
}

/** The rows of a report, for a table: its columns, rows and caption. */
export function rowsOf(report) {
  const { columns, rows, caption } = report.mode === "interleave" ? drawn(report) : split(report);
  const since = new Date(report.started_at).toLocaleString();
  const state = report.stopped_at ? `ran from ${since} to ${new Date(report.stopped_at).toLocaleString()}` : `runs since ${since}`;
  return { columns, rows, caption: `${report.name} ${state}. ${caption}` };
}
