import { z } from 'zod';
import { mask } from '../../suppression/subject.ts';
import type { Deps } from '../deps.ts';
import { authorizedOf } from '../guard/authorize.ts';
import { parse, readJson } from '../guard/read-body.ts';
import { shownTo } from '../guard/visible.ts';
import { Instant } from '../operation.ts';
import type { Operation, Routes } from '../operation.ts';
import {
  createIdentifierSchema,
  createIdentifiersSchema,
  IdentifierState,
  suppressedOf,
} from './identifier.ts';
import { EXAMPLE_FOUND, OptOutAnswer, renderFound } from './opt-outs.ts';

const SubjectAnswer = z
  .object({
    object: z.literal('subject'),
    identifier: IdentifierState,
    granted: z
      .array(z.object({ scope: z.string(), granted_at: Instant }).meta({ title: 'GrantedScope' }))
      .describe('What the person consented to again and has not refused since.'),
    opt_outs: z.array(OptOutAnswer).describe('Those that name it, newest first, at most 100.'),
  })
  .meta({ title: 'SubjectState' });

const ErasureAnswer = z
  .object({
    object: z.literal('erasure'),
    identifiers: z
      .array(
        IdentifierState.extend({
          outcome: z
            .enum(['erased', 'already_erased', 'unknown'])
            .describe('`unknown`: there is no such identifier here, and nothing to erase.'),
          absent: z
            .array(z.string())
            .describe(
              'Stores that did not have the person when it was erased: they cannot be told any more should the person appear there.',
            ),
        }).meta({ title: 'ErasedIdentifier' }),
      )
      .describe('In the order of the request, each with what stays suppressed.'),
  })
  .meta({ title: 'Erasure' });

export function addSubjects(routes: Routes, { ledger, defaultRegion }: Deps): void {
  const Lookup = z
    .strictObject({ identifier: createIdentifierSchema(defaultRegion) })
    .meta({ title: 'SubjectLookup' });

  const lookup: Operation = {
    method: 'post',
    path: '/v2/subjects/lookup',
    id: 'lookUpSubject',
    tag: 'Opt-outs',
    summary: 'What is known about one identifier',
    description:
      'What is suppressed for it now, since when, and by which opt-outs. By POST, so that no address appears in a URL. An identifier that nobody opted out gets a 200: nothing is suppressed.',
    scopes: ['subjects:read'],
    body: Lookup,
    answers: { 200: { description: 'The state of the identifier.', schema: SubjectAnswer } },
    problems: ['budget-exhausted'],
    examples: {
      known: {
        summary: 'Somebody who opted out',
        body: { identifier: { email: 'ada@example.com' } },
        status: 200,
        answer: {
          object: 'subject',
          identifier: EXAMPLE_FOUND.identifiers[0]!,
          granted: [],
          opt_outs: [EXAMPLE_FOUND],
        } satisfies z.input<typeof SubjectAnswer>,
      },
      unknown: {
        summary: 'Somebody unknown',
        body: { identifier: { email: 'grace@example.com' } },
        status: 200,
        answer: {
          object: 'subject',
          identifier: { kind: 'email', masked: 'g••@e••.com', suppressed: [] },
          granted: [],
          opt_outs: [],
        } satisfies z.input<typeof SubjectAnswer>,
      },
    },
  };

  routes.add(lookup, async (ctx) => {
    const { identifier } = parse(Lookup, await readJson(ctx));
    await ledger.spend(authorizedOf(ctx).caller, 'check', 1);
    const { state, optOuts } = await ledger.lookupSubject(identifier);
    const answer: z.input<typeof SubjectAnswer> = {
      object: 'subject',
      identifier: {
        kind: identifier.kind,
        masked: mask(identifier),
        suppressed: suppressedOf(state),
      },
      granted: Object.entries(state.granted)
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([scope, { at }]) => ({ scope, granted_at: at })),
      opt_outs: optOuts.map((found) => renderFound(shownTo(ctx, found))),
    };
    ctx.body = answer;
  });

  const ErasureRequest = z
    .strictObject({ identifiers: createIdentifiersSchema(defaultRegion) })
    .meta({ title: 'ErasureRequest' });

  const erase: Operation = {
    method: 'post',
    path: '/v2/subjects/erasure',
    id: 'eraseSubjects',
    tag: 'Opt-outs',
    summary: "Erase a person's address",
    description:
      'The address is erased for good, and so are note and evidence of every opt-out that names it, and your idempotency key of those and of every grant; the person stays suppressed, and checks still say so. ' +
      'What cannot be read any more cannot be carried: as long as a store in service has not confirmed the opt-out, the answer is 409 and nothing is erased. A store that does not have the person (`absent`) is not waited for. ' +
      'A store that is added or filled again later cannot be told; it counts the person as `absent`. Whoever opts out or consents again gives the address again.',
    scopes: ['subjects:erase'],
    body: ErasureRequest,
    answers: { 200: { description: 'Done, or nothing to do.', schema: ErasureAnswer } },
    problems: ['erasure-too-early', 'budget-exhausted'],
    examples: {
      erased: {
        summary: 'Somebody who wants to be forgotten',
        body: { identifiers: [{ email: 'ada@example.com' }, { phone: '+442071838750' }] },
        status: 200,
        answer: {
          object: 'erasure',
          identifiers: [
            { ...EXAMPLE_FOUND.identifiers[0]!, outcome: 'erased', absent: [] },
            { kind: 'phone', masked: '+44••50', suppressed: [], outcome: 'unknown', absent: [] },
          ],
        } satisfies z.input<typeof ErasureAnswer>,
      },
    },
  };

  routes.add(erase, async (ctx) => {
    const { identifiers } = parse(ErasureRequest, await readJson(ctx));
    const { caller } = authorizedOf(ctx);
    // Like a lookup, the answer tells whether somebody opted out.
    await ledger.spend(caller, 'check', identifiers.length);
    const erased = await ledger.erase(identifiers, caller);
    const answer: z.input<typeof ErasureAnswer> = {
      object: 'erasure',
      identifiers: erased.map(({ subject, outcome, absent, state }) => ({
        kind: subject.kind,
        masked: mask(subject),
        suppressed: suppressedOf(state),
        outcome,
        absent: [...absent],
      })),
    };
    ctx.body = answer;
  });
}
