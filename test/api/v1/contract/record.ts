// How a new exchange gets its recording: it is told several times over, and what differs between the tellings becomes a
// placeholder; two values get one name if they were one value every time.
import { tell } from './tell.ts';
import type { Told } from './tell.ts';
import type { Exchange, Step, Story, StoryAnswer } from './story.ts';

/**
 * By chance two instants may fall into one millisecond, but hardly this often in a row, unless they are microseconds apart (two
 * rows of one statement): read what was recorded before you commit it.
 */
const TIMES = 5;

/** Equal in every telling, and yet not of any telling in particular. */
const MEASURED =
  /^(?:latency_ms|p50|p95|p99|max|position_age_seconds|oldest_outstanding_seconds|age_seconds|drain_eta_seconds)$/;
/** Moves by itself. */
const MARK = /^(?:verified_through|reconciled_through|through)$/;
/** Of the moment: a report that was cached for some milliseconds has the same one twice. */
const MOMENT = /^as_of$/;
const SEQUENCE = /^(?:seq|speaks_from)$/;

const PARTS = [
  ['id', /([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})/],
  ['instant', /(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z)/],
  ['text', /([A-Za-z0-9_-]{20,})/],
] as const;

/** The story with an answer for each exchange that had none; those that had one stay as and where they were. */
export async function record(story: Story): Promise<Story> {
  const first = story.steps.findIndex((step) => isNew(step));
  if (story.steps.slice(first).some((step) => 'answer' in step))
    throw new Error('What is new comes last: a recording that follows it would be told another story.');
  const tellings: Told[][] = [];
  for (let n = 0; n < TIMES; n += 1) {
    const telling: Told[] = [];
    await tell(story, (exchange, told) => {
      const { meanings, requestId, answer } = told;
      if (exchange.answer !== undefined) meanings.inWordsOf(exchange.answer, answer, requestId);
      else {
        for (const [name, pointer] of Object.entries(exchange.names ?? {}))
          if (!meanings.bind(name, String(at(answer.body, pointer))))
            throw new Error(`${name} is two values`);
        telling.push(told);
      }
    });
    tellings.push(telling);
  }
  let next = 0;
  return {
    ...story,
    steps: story.steps.map((step): Step => {
      if (!isNew(step)) return step;
      const { what, request } = step as Exchange;
      const told = tellings.map((telling) => telling[next]!);
      next += 1;
      return { what, request, answer: merge(told) };
    }),
  };
}

const isNew = (step: Step): boolean => !('grant' in step) && step.answer === undefined;

const at = (value: unknown, pointer: string): unknown =>
  pointer
    .split('/')
    .slice(1)
    .reduce((whole: unknown, name) => (whole as Record<string, unknown>)[name], value);

function merge(told: readonly Told[]): StoryAnswer {
  return mergeValues(
    told,
    told.map(({ answer }) => answer),
    'answer',
  ) as StoryAnswer;
}

function mergeValues(told: readonly Told[], values: readonly unknown[], member: string): unknown {
  const [value] = values;
  if (Array.isArray(value)) {
    const all = values as readonly unknown[][];
    if (all.some(({ length }) => length !== value.length))
      throw new Error(`${member} has now more, now fewer`);
    return value.map((_, n) =>
      mergeValues(
        told,
        all.map((one) => one[n]),
        member,
      ),
    );
  }
  if (typeof value === 'object' && value !== null) {
    const all = values as readonly Record<string, unknown>[];
    return Object.fromEntries(
      Object.keys(value).map((name) => [
        name,
        mergeValues(
          told,
          all.map((one) => one[name]),
          name,
        ),
      ]),
    );
  }
  if (typeof value === 'string') return mergeTexts(told, values as readonly string[], member);
  if (typeof value !== 'number') {
    if (values.some((one) => one !== value)) throw new Error(`${member} is now this, now that`);
    return value;
  }
  if (values.some((one) => typeof one !== 'number')) throw new Error(`${member} is now a number, now not`);
  if (MARK.test(member)) return '<number>';
  if (SEQUENCE.test(member)) return named(told, 'seq', values.map(String), member);
  if (values.some((one) => one !== value) || (MEASURED.test(member) && value !== 0)) return '<number>';
  return value;
}

function mergeTexts(told: readonly Told[], texts: readonly string[], member: string): string {
  const [text = ''] = texts;
  const [given] = namesOf(told, 'text', texts);
  if (given !== undefined) return `<${given}>`;
  if (texts.every((one) => one === text)) return text;
  if (texts.every((one, n) => one === told[n]!.requestId)) return '<request_id>';
  for (const [kind, form] of PARTS) {
    const split = texts.map((one) => one.split(form));
    const { length } = split[0]!;
    if (length === 1 || split.some((parts) => parts.length !== length)) continue;
    return split[0]!
      .map((part, n) => {
        const parts = split.map((one) => one[n]!);
        return n % 2 === 0 || parts.every((one) => one === part)
          ? mergeTexts(told, parts, member)
          : named(told, kind, parts, member);
      })
      .join('');
  }
  throw new Error(`${member} is now ${text}, now ${texts.find((one) => one !== text)}`);
}

/** The names that mean each of these values in its telling. */
const namesOf = (told: readonly Told[], kind: string, values: readonly string[]): string[] =>
  told
    .map(({ meanings }, n) => meanings.namesOf(kind, values[n]!))
    .reduce((all, these) => all.filter((name) => these.includes(name)));

/** The name that means each of these values in its telling, or a new one. */
function named(told: readonly Told[], kind: string, values: readonly string[], member: string): string {
  const [known] = MOMENT.test(member) ? [] : namesOf(told, kind, values);
  if (known !== undefined) return `<${known}>`;
  for (let n = 1; ; n += 1) {
    const name = `${kind}:${member === 'location' ? 'opt_out' : member}.${n}`;
    if (told.some(({ meanings }) => meanings.has(name))) continue;
    for (const [t, { meanings }] of told.entries()) meanings.bind(name, values[t]!);
    return `<${name}>`;
  }
}
