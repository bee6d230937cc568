import { z } from 'zod';
import { mask } from '../../suppression/subject.ts';
import { authorizedOf } from '../guard/authorize.ts';
import { parse, readJson } from '../guard/read-body.ts';
import type { Operation, Routes } from '../operation.ts';
import type { Deps } from '../deps.ts';
import {
  EffectivePerChannel,
  EXAMPLE_FOUND,
  effectiveOf,
  FoundOptOutAnswer,
  PropagationSummary,
  renderFound,
  ScopeFlags,
  scopeOf,
} from './opt-outs.ts';
import { createSubjectSchema, MaskedSubject } from '../subject.ts';

const SubjectAnswer = z
  .object({
    object: z.literal('subject'),
    subject: MaskedSubject,
    scope: ScopeFlags.describe('What is suppressed now.'),
    effective: EffectivePerChannel,
    opt_outs: z.array(FoundOptOutAnswer).describe('Newest first, at most 100.'),
    propagation: PropagationSummary.nullable().describe('Of the newest opt-out; null if there is none.'),
  })
  .meta({ title: 'SubjectState' });

export function addSubjects(routes: Routes, { ledger, defaultRegion }: Deps): void {
  const Lookup = z
    .strictObject({ subject: createSubjectSchema(defaultRegion) })
    .meta({ title: 'SubjectLookup' });

  const lookup: Operation = {
    method: 'post',
    path: '/v1/subjects/lookup',
    id: 'lookUpSubject',
    tag: 'Opt-outs',
    summary: 'What is known about one identifier',
    description:
      'What is suppressed for it now, since when, and by which opt-outs. By POST, so that no address appears in a URL. An identifier that nobody opted out gets a 200: all false.',
    scopes: ['subjects:read'],
    body: Lookup,
    answers: { 200: { description: 'The state of the subject.', schema: SubjectAnswer } },
    problems: ['budget-exhausted'],
    examples: {
      known: {
        summary: 'Somebody who opted out',
        body: { subject: { email: 'ada@example.com' } },
        status: 200,
        answer: {
          object: 'subject',
          subject: EXAMPLE_FOUND.subject,
          scope: EXAMPLE_FOUND.scope,
          effective: EXAMPLE_FOUND.effective,
          opt_outs: [EXAMPLE_FOUND],
          propagation: EXAMPLE_FOUND.propagation,
        } satisfies z.input<typeof SubjectAnswer>,
      },
      unknown: {
        summary: 'Somebody unknown',
        body: { subject: { email: 'grace@example.com' } },
        status: 200,
        answer: {
          object: 'subject',
          subject: { kind: 'email', masked: 'g••@e••.com' },
          scope: { email: false, sms: false, push: false },
          effective: { email: null, sms: null, push: null },
          opt_outs: [],
          propagation: null,
        } satisfies z.input<typeof SubjectAnswer>,
      },
    },
  };

  routes.add(lookup, async (ctx) => {
    const { subject } = parse(Lookup, await readJson(ctx));
    await ledger.spend(authorizedOf(ctx).caller, 'check', 1);
    const { state, optOuts } = await ledger.lookupSubject(subject);
    const found = optOuts.map(renderFound);
    const answer: z.input<typeof SubjectAnswer> = {
      object: 'subject',
      subject: { kind: subject.kind, masked: mask(subject) },
      scope: scopeOf(state),
      effective: effectiveOf(state),
      opt_outs: found,
      propagation: found[0]?.propagation ?? null,
    };
    ctx.body = answer;
  });
}
