// May a message be sent? No answer means do not send.
import { z } from 'zod';
import type { CheckAnswer, CheckItem } from '../../ledger/contract/checks.ts';
import { CHANNELS, isChannel, isDeclared, TOPIC_NAME } from '../../suppression/scope.ts';
import type { Scope } from '../../suppression/scope.ts';
import { authorizedOf } from '../guard/authorize.ts';
import { parse, readJson } from '../guard/read-body.ts';
import { Instant } from '../operation.ts';
import type { Operation, Routes } from '../operation.ts';
import {
  CHECKS_BYTES_MAX,
  CHECKS_MAX,
  isRef,
  identifiersIn,
  readItems,
  REF_CHARACTERS_MAX,
  refOf,
} from '../check-items.ts';
import { shortText } from '../bounded-text.ts';
import type { Deps } from '../deps.ts';
import { OPT_OUT_ID } from './opt-outs.ts';
import { createSubjectSchema, readSubjects } from '../subject.ts';

const SUBJECTS_MAX = 20;
const MEMBERS = ['ref', 'subject', 'subjects', 'channel', 'topic'];

const Envelope = z.strictObject({
  items: z.array(z.unknown()).max(CHECKS_MAX, `must have at most ${CHECKS_MAX} items`),
});

/** What readItem takes: for the document, and as the oracle of its test. Reading a thousand items by a schema is slow. */
export const createItemSchema = (defaultRegion: string | undefined) => {
  const subject = createSubjectSchema(defaultRegion);
  return z
    .strictObject({
      ref: shortText(REF_CHARACTERS_MAX).describe('Your own reference, returned unchanged.').optional(),
      subject: subject.optional(),
      subjects: z
        .array(subject)
        .min(1)
        .max(SUBJECTS_MAX)
        .describe('Every identifier of the person that you hold: if one is suppressed, so is the item.')
        .optional(),
      channel: z.enum(CHANNELS),
      topic: z
        .string()
        .regex(TOPIC_NAME)
        .describe('What the message is about, such as `newsletter`: a topic that the configuration declares.')
        .optional(),
    })
    .refine(({ subject, subjects }) => (subject === undefined) !== (subjects === undefined))
    .meta({
      title: 'CheckItem',
      description: 'Has either `subject` or `subjects`. An invalid item is answered with "do not send".',
    });
};

/** One item in one pass; a bad one is undefined, and is answered with "do not send". */
function readItem(
  value: unknown,
  { defaultRegion, declared }: Pick<Deps, 'defaultRegion' | 'declared'>,
): CheckItem | undefined {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
  for (const name in value) if (!MEMBERS.includes(name)) return undefined;
  const { ref, subject, subjects, channel, topic } = value as Record<string, unknown>;
  if (typeof channel !== 'string' || !isChannel(channel)) return undefined;
  if (topic !== undefined && (typeof topic !== 'string' || !TOPIC_NAME.test(topic))) return undefined;
  if (!isRef(ref)) return undefined;
  if ((subject === undefined) === (subjects === undefined)) return undefined;
  const read = readSubjects(subject === undefined ? subjects : [subject], SUBJECTS_MAX, defaultRegion);
  const scope: Scope = topic === undefined ? channel : `${channel}/${topic}`;
  return read && { subjects: read, scope, isDeclared: isDeclared(scope, declared) };
}

const CheckedItem = z
  .object({
    ref: z.string().optional(),
    can_send: z.boolean(),
    reason: z
      .enum(['opted_out', 'topic_required', 'invalid_item'])
      .nullable()
      .describe(
        '`topic_required`: a topic of this channel is suppressed, and the item names none that is declared. `invalid_item`: it cannot be read.',
      ),
    opt_out_id: z.uuid().nullable(),
    effective_at: Instant.nullable().describe('Since when it is suppressed.'),
  })
  .meta({ title: 'CheckedItem' });

const ChecksAnswer = z
  .object({ as_of: Instant, items: z.array(CheckedItem).describe('In the order of the request.') })
  .meta({ title: 'ChecksAnswer' });

const render = (answer: CheckAnswer | undefined): z.input<typeof CheckedItem> =>
  answer === undefined
    ? { can_send: false, reason: 'invalid_item', opt_out_id: null, effective_at: null }
    : {
        can_send: answer.canSend,
        reason: answer.reason ?? null,
        opt_out_id: answer.optOutId ?? null,
        effective_at: answer.effectiveAt ?? null,
      };

export function addChecks(routes: Routes, deps: Deps): void {
  const check: Operation = {
    method: 'post',
    path: '/v1/checks',
    id: 'check',
    tag: 'Checks',
    summary: 'May these messages be sent?',
    description:
      'No answer means do not send.\n\n' +
      'A problem, a time-out and an item missing from the answer all count as no answer. ' +
      'Ask with every identifier of the person that you hold, shortly before you send. An unknown person is not suppressed.',
    scopes: ['checks:read'],
    body: z
      .strictObject({ items: z.array(createItemSchema(deps.defaultRegion)).max(CHECKS_MAX) })
      .meta({ title: 'ChecksRequest' }),
    answers: { 200: { description: 'One answer per item.', schema: ChecksAnswer } },
    problems: ['budget-exhausted'],
    examples: {
      several: {
        summary: 'Two people, one of whom opted out',
        body: {
          items: [
            { ref: 'a', subject: { email: 'ada@example.com' }, channel: 'email' },
            {
              ref: 'b',
              subjects: [{ email: 'grace@example.com' }, { person_id: 'customer-17' }],
              channel: 'email',
              topic: 'newsletter',
            },
          ],
        },
        status: 200,
        answer: {
          as_of: '2026-11-24T09:00:05.000Z',
          items: [
            {
              ref: 'a',
              can_send: false,
              reason: 'opted_out',
              opt_out_id: OPT_OUT_ID,
              effective_at: '2026-11-24T09:00:00.000Z',
            },
            { ref: 'b', can_send: true, reason: null, opt_out_id: null, effective_at: null },
          ],
        } satisfies z.input<typeof ChecksAnswer>,
      },
    },
  };

  routes.add(check, async (ctx) => {
    const { items } = parse(Envelope, await readJson(ctx, CHECKS_BYTES_MAX));
    const read = await readItems(items, (item) => readItem(item, deps));
    const good = read.filter((item) => item !== undefined);
    await deps.ledger.spend(authorizedOf(ctx).caller, 'check', identifiersIn(good));
    const { asOf, items: answers } = await deps.ledger.checkSendable(good);
    let next = 0;
    const answer: z.input<typeof ChecksAnswer> = {
      as_of: asOf,
      items: read.map((item, n) => ({
        ...refOf(items[n]),
        ...render(item === undefined ? undefined : answers[next++]),
      })),
    };
    ctx.body = answer;
  });
}
