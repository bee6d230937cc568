// May it be done? No answer means do not.
import { z } from 'zod';
import type { CheckAnswer, CheckItem } from '../../ledger/contract/checks.ts';
import { isDeclared } from '../../suppression/scope.ts';
import type { DeclaredScopes } from '../../suppression/scope.ts';
import type { Deps } from '../deps.ts';
import {
  CHECKS_BYTES_MAX,
  CHECKS_MAX,
  identifiersIn,
  isRef,
  readItems,
  REF_CHARACTERS_MAX,
  refOf,
} from '../check-items.ts';
import { authorizedOf } from '../guard/authorize.ts';
import { shortText } from '../bounded-text.ts';
import { parse, readJson } from '../guard/read-body.ts';
import { Instant } from '../operation.ts';
import type { Operation, Routes } from '../operation.ts';
import { readSubjects } from '../subject.ts';
import { createIdentifierSchema, IDENTIFIERS_MAX } from './identifier.ts';
import { AT, OPT_OUT_ID } from './opt-outs.ts';
import { createScopeSchema } from './scopes.ts';

const MEMBERS = ['ref', 'identifiers', 'scope'];

const Envelope = z.strictObject({
  items: z.array(z.unknown()).max(CHECKS_MAX, `must have at most ${CHECKS_MAX} items`),
});

/** What readItem takes: for the document, and as the oracle of its test. Reading a thousand items by a schema is slow. */
export const createItemSchema = ({ defaultRegion, declared }: Pick<Deps, 'defaultRegion' | 'declared'>) =>
  z
    .strictObject({
      ref: shortText(REF_CHARACTERS_MAX).describe('Your own reference, returned unchanged.').optional(),
      identifiers: z
        .array(createIdentifierSchema(defaultRegion))
        .min(1)
        .max(IDENTIFIERS_MAX)
        .describe('Every identifier of the person that you hold: if one is suppressed, so is the item.'),
      scope: createScopeSchema(declared).describe(
        'What you are about to do: write on a channel, preferably with its topic (`email/newsletter`), or process for a purpose.',
      ),
    })
    .meta({ title: 'CheckItem', description: 'An invalid item is answered with "no".' });

/** One item in one pass; a bad one is undefined, and is answered with "no". */
function readItem(
  value: unknown,
  { defaultRegion, declared }: { defaultRegion: string | undefined; declared: DeclaredScopes },
): CheckItem | undefined {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
  for (const name in value) if (!MEMBERS.includes(name)) return undefined;
  const { ref, identifiers, scope } = value as Record<string, unknown>;
  if (typeof scope !== 'string' || !isDeclared(scope, declared)) return undefined;
  if (!isRef(ref)) return undefined;
  const subjects = readSubjects(identifiers, IDENTIFIERS_MAX, defaultRegion);
  return subjects && { subjects, scope, isDeclared: true };
}

const CheckedItem = z
  .object({
    ref: z.string().optional(),
    allowed: z.boolean(),
    reason: z
      .enum(['opted_out', 'topic_required', 'invalid_item'])
      .nullable()
      .describe(
        '`topic_required`: a topic of this channel is suppressed, and the item names none. `invalid_item`: it cannot be read, or its scope is not declared.',
      ),
    opt_out_id: z.uuid().nullable(),
    effective_at: Instant.nullable().describe('Since when it is suppressed.'),
  })
  .meta({ title: 'CheckedItem' });

const ChecksAnswer = z
  .object({
    object: z.literal('checks'),
    as_of: Instant,
    items: z.array(CheckedItem).describe('In the order of the request.'),
  })
  .meta({ title: 'ChecksAnswer' });

const render = (answer: CheckAnswer | undefined): z.input<typeof CheckedItem> =>
  answer === undefined
    ? { allowed: false, reason: 'invalid_item', opt_out_id: null, effective_at: null }
    : {
        allowed: answer.canSend,
        reason: answer.reason ?? null,
        opt_out_id: answer.optOutId ?? null,
        effective_at: answer.effectiveAt ?? null,
      };

export function addChecks(routes: Routes, deps: Deps): void {
  const check: Operation = {
    method: 'post',
    path: '/v2/checks',
    id: 'check',
    tag: 'Checks',
    summary: 'May these things be done?',
    description:
      'No answer means no.\n\n' +
      'A problem, a time-out and an item missing from the answer all count as no answer. ' +
      'Ask with every identifier of the person that you hold, shortly before you send or process. An unknown person is not suppressed.',
    scopes: ['checks:read'],
    body: z
      .strictObject({ items: z.array(createItemSchema(deps)).max(CHECKS_MAX) })
      .meta({ title: 'ChecksRequest' }),
    answers: { 200: { description: 'One answer per item.', schema: ChecksAnswer } },
    problems: ['budget-exhausted'],
    examples: {
      several: {
        summary: 'Two people, one of whom opted out',
        body: {
          items: [
            { ref: 'a', identifiers: [{ email: 'ada@example.com' }], scope: 'email' },
            {
              ref: 'b',
              identifiers: [{ email: 'grace@example.com' }, { person_id: 'customer-17' }],
              scope: 'email',
            },
          ],
        },
        status: 200,
        answer: {
          object: 'checks',
          as_of: '2026-11-24T09:00:05.000Z',
          items: [
            { ref: 'a', allowed: false, reason: 'opted_out', opt_out_id: OPT_OUT_ID, effective_at: AT },
            { ref: 'b', allowed: true, reason: null, opt_out_id: null, effective_at: null },
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
      object: 'checks',
      as_of: asOf,
      items: read.map((item, n) => ({
        ...refOf(items[n]),
        ...render(item === undefined ? undefined : answers[next++]),
      })),
    };
    ctx.body = answer;
  });
}
