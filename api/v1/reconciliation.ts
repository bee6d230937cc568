// Whether stores still hold what they acknowledged, and what they suppress by themselves. Operations ask for this and watch it; the
// stores' workers carry it out.
import { z } from 'zod';
import type { Listing, Reconciliation } from '../../ledger/contract/reconciliation.ts';
import { DIFFERENCES, HELD_SCOPES_MAX } from '../../suppression/acknowledgement.ts';
import { AbideError } from '../../suppression/errors.ts';
import { SUBJECT_KINDS } from '../../suppression/subject-kind.ts';
import { authorizedOf, requireStore } from '../guard/authorize.ts';
import { parse, queryInteger, readJson } from '../guard/read-body.ts';
import { Id, Instant, StoreName } from '../operation.ts';
import type { Operation, Routes } from '../operation.ts';
import {
  DecisionAnswer,
  EXAMPLE_DECISION,
  renderDecision,
  ScopeName,
  SEQ,
  SUBJECT_ID,
  WORKER_NAME,
} from './acknowledgements.ts';
import type { Deps } from '../deps.ts';

const BYTES_MAX = 2 * 1024 * 1024;

const Query = z.strictObject({ limit: queryInteger(100).default(10) });
const PageQuery = z.strictObject({ worker: z.string().regex(WORKER_NAME) });

const Seq = z.int().min(1);
const Compared = z
  .strictObject({
    run: Seq,
    generation: Seq,
    after: z.uuid(),
    through: z.uuid(),
    last: z.boolean(),
    compared: z.int().min(0).max(10_000),
    own: z.int().min(0).max(10_000),
    own_suppressions: z
      .array(z.strictObject({ seq: Seq, suppressed: z.array(ScopeName).min(1).max(HELD_SCOPES_MAX) }))
      .max(1_000)
      .optional()
      .describe('Which of it is among the scopes that the page named under `own`.'),
    unread: z.int().min(0).max(10_000),
    differences: z
      .array(z.strictObject({ seq: Seq, kind: z.enum(DIFFERENCES), held_version: z.int().min(0).nullable() }))
      .max(1_000),
  })
  .meta({ title: 'Comparison' });

const count = z.int().min(0);
const Pass = z
  .object({
    id: Seq,
    asked: z.boolean().describe('Somebody asked for it, so it ran at full speed.'),
    through: count.describe('How far the store had been verified when the pass began.'),
    started_at: Instant,
    finished_at: Instant.nullable(),
    compared: count,
    missing: count.describe('Not held.'),
    older: count.describe('Held as it was before: the store went back in time.'),
    resurrected: count.describe('Held in this version, but not suppressed.'),
    ahead: count.describe('Held in a version that the ledger never gave.'),
    own: count.describe('Suppressed beyond what was decided: by the store itself.'),
    recorded: count
      .optional()
      .describe(
        'How many of these were recorded as opt-outs; absent if the configuration does not ask for that.',
      ),
    unread: count.describe('Cannot be compared: the address was erased.'),
  })
  .meta({ title: 'ReconciliationPass', description: 'How many subjects it found in each condition.' });
const Passes = z
  .object({
    store: z.string(),
    passes: z.array(Pass).describe('Newest first.'),
    listing: z
      .object({
        asked: z.boolean(),
        started_at: Instant,
        finished_at: Instant.nullable(),
        listed: count.describe('Entries of the store that were read.'),
        recorded: count.describe('People whom only the store knew: opt-outs that were recorded.'),
        unread: count.describe('Entries that are not an address of their kind.'),
      })
      .optional()
      .describe("The latest pass over the store's own list, if what it suppresses by itself is recorded."),
  })
  .meta({ title: 'ReconciliationPasses' });
export type ReconciliationPasses = z.output<typeof Passes>;
const Begun = z.object({ store: z.string(), id: Seq }).meta({ title: 'ReconciliationBegun' });
const Page = z
  .object({
    page: z
      .object({
        run: Seq,
        generation: Seq,
        after: Id,
        through: Id,
        last: z.boolean(),
        decisions: z.array(DecisionAnswer),
        own: z
          .object({
            scopes: z.array(z.string()),
            others: z
              .array(DecisionAnswer)
              .describe('Not due to the store: read them back only for what it suppresses by itself.'),
          })
          .optional()
          .describe('Report what the store suppresses by itself of these scopes.'),
        pause_ms: z.int().min(0).describe('Wait this long before the next page.'),
      })
      .nullable(),
  })
  .meta({ title: 'ReconciliationPage' });
const ListedKey = z.strictObject({ kind: z.enum(SUBJECT_KINDS), key: z.string().max(4_096) });
const ListingPageAnswer = z
  .object({
    page: z
      .object({
        generation: Seq,
        pages: count.describe('Pages taken so far; repeat it in the report.'),
        after: ListedKey.nullable().describe('Null: from the beginning.'),
        scopes: z.array(z.string()).describe('Report what the store suppresses of these.'),
        pause_ms: z.int().min(0).describe('Wait this long before the next page.'),
      })
      .nullable(),
  })
  .meta({ title: 'ListingPage' });
const ListedBody = z
  .strictObject({
    generation: Seq,
    pages: z.int().min(0),
    through: ListedKey.nullable().describe('The last one that was read; null: there were no more.'),
    last: z.boolean(),
    listed: z.int().min(0).max(10_000),
    suppressed: z
      .array(ListedKey.extend({ scopes: z.array(ScopeName).min(1).max(1_000) }))
      .max(1_000)
      .describe('Those who are suppressed.'),
  })
  .meta({ title: 'Listed' });
const Taken = z.object({ taken: z.boolean() }).meta({ title: 'ComparisonAnswer' });

const PASS_ID = 5;

const list: Operation = {
  method: 'get',
  path: '/v1/stores/:name/reconciliation',
  id: 'listReconciliations',
  tag: 'Operations',
  summary: 'The latest passes over a store',
  description:
    'In a pass, what the store had acknowledged is read back again, page by page. What differs is outstanding again.',
  scopes: ['lag:read'],
  params: { name: StoreName },
  query: Query,
  answers: { 200: { description: 'The passes.', schema: Passes } },
  problems: ['not-found'],
  examples: {
    passes: {
      summary: 'One that runs',
      path: { name: 'crm' },
      query: { limit: '1' },
      status: 200,
      answer: {
        store: 'crm',
        passes: [
          {
            id: PASS_ID,
            asked: true,
            through: SEQ,
            started_at: '2026-11-24T09:00:00.000Z',
            finished_at: null,
            compared: 0,
            missing: 0,
            older: 0,
            resurrected: 0,
            ahead: 0,
            own: 0,
            unread: 0,
          },
        ],
      } satisfies z.input<typeof Passes>,
    },
  },
};

const begin: Operation = {
  method: 'post',
  path: '/v1/stores/:name/reconciliation',
  id: 'beginReconciliation',
  tag: 'Operations',
  summary: 'Begin a pass now, at full speed',
  description: "Carried out by the store's worker. Stores that cannot be read back have none.",
  scopes: ['stores:write'],
  params: { name: StoreName },
  answers: { 202: { description: 'The pass is asked for.', schema: Begun } },
  problems: ['not-found'],
  examples: {
    begun: {
      summary: 'Asked for',
      path: { name: 'crm' },
      status: 202,
      answer: { store: 'crm', id: PASS_ID } satisfies z.input<typeof Begun>,
    },
  },
};

const next: Operation = {
  method: 'get',
  path: '/v1/stores/:name/reconciliation/page',
  id: 'getReconciliationPage',
  tag: 'Workers',
  summary: 'What the store acknowledged, to be read back again',
  description: "For the worker that holds the store's lease. Null: there is nothing to compare now.",
  scopes: ['acknowledgements:write'],
  params: { name: StoreName },
  query: PageQuery,
  answers: { 200: { description: 'A page, or null.', schema: Page } },
  problems: ['not-found'],
  examples: {
    page: {
      summary: 'One subject',
      path: { name: 'crm' },
      query: { worker: 'worker-1' },
      status: 200,
      answer: {
        page: {
          run: PASS_ID,
          generation: 1,
          after: '00000000-0000-0000-0000-000000000000',
          through: SUBJECT_ID,
          last: true,
          decisions: [EXAMPLE_DECISION],
          pause_ms: 0,
        },
      } satisfies z.input<typeof Page>,
    },
  },
};

const report: Operation = {
  method: 'post',
  path: '/v1/stores/:name/reconciliation/page',
  id: 'reportReconciliationPage',
  tag: 'Workers',
  summary: 'What differed',
  description: 'A page is counted once: `taken` is false if it was counted before or its pass is over.',
  scopes: ['acknowledgements:write'],
  params: { name: StoreName },
  body: Compared,
  answers: { 200: { description: 'Whether it was counted.', schema: Taken } },
  problems: ['not-found'],
  examples: {
    same: {
      summary: 'Nothing differed, but the pass is over',
      path: { name: 'crm' },
      body: {
        run: 1,
        generation: 1,
        after: '00000000-0000-0000-0000-000000000000',
        through: SUBJECT_ID,
        last: true,
        compared: 1,
        own: 0,
        unread: 0,
        differences: [],
      } satisfies z.input<typeof Compared>,
      status: 200,
      answer: { taken: false } satisfies z.input<typeof Taken>,
    },
  },
};

const nextListing: Operation = {
  method: 'get',
  path: '/v1/stores/:name/listing',
  id: 'getListingPage',
  tag: 'Workers',
  summary: 'Where to go on listing what the store holds',
  description:
    "For the worker that holds the store's lease, if what the store suppresses by itself is recorded and its keys are plain addresses. Null: there is nothing to list now, or at all.",
  scopes: ['acknowledgements:write'],
  params: { name: StoreName },
  query: PageQuery,
  answers: { 200: { description: 'Where to go on, or null.', schema: ListingPageAnswer } },
  problems: ['not-found'],
  examples: {
    none: {
      summary: 'Nothing of this store is recorded',
      path: { name: 'crm' },
      query: { worker: 'worker-1' },
      status: 200,
      answer: { page: null } satisfies z.input<typeof ListingPageAnswer>,
    },
  },
};

const reportListing: Operation = {
  method: 'post',
  path: '/v1/stores/:name/listing',
  id: 'reportListingPage',
  tag: 'Workers',
  summary: 'What the store lists',
  description:
    'Anybody who is suppressed and unknown to the ledger is recorded as an opt-out of the client `store:NAME`. A page is taken once: `taken` is false if it was taken before or the list is over.',
  scopes: ['acknowledgements:write'],
  params: { name: StoreName },
  body: ListedBody,
  answers: { 200: { description: 'Whether it was taken.', schema: Taken } },
  problems: ['not-found'],
  examples: {
    over: {
      summary: 'Nothing of this store is recorded',
      path: { name: 'crm' },
      body: {
        generation: 1,
        pages: 0,
        through: { kind: 'email', key: 'ada@example.com' },
        last: false,
        listed: 1,
        suppressed: [{ kind: 'email', key: 'ada@example.com', scopes: ['email'] }],
      } satisfies z.input<typeof ListedBody>,
      status: 200,
      answer: { taken: false } satisfies z.input<typeof Taken>,
    },
  },
};

const renderListing = ({ asked, startedAt, finishedAt, listed, recorded, unread }: Listing) => ({
  asked,
  started_at: startedAt,
  finished_at: finishedAt ?? null,
  listed,
  recorded,
  unread,
});

const render = (pass: Reconciliation): z.input<typeof Pass> => ({
  id: pass.id,
  asked: pass.asked,
  through: pass.through,
  started_at: pass.startedAt,
  finished_at: pass.finishedAt ?? null,
  compared: pass.compared,
  missing: pass.missing,
  older: pass.older,
  resurrected: pass.resurrected,
  ahead: pass.ahead,
  own: pass.own,
  ...(pass.recorded === undefined ? {} : { recorded: pass.recorded }),
  unread: pass.unread,
});

export function addReconciliation(routes: Routes, { ledger }: Deps): void {
  routes.add(list, async (ctx) => {
    const { limit } = parse(Query, { ...ctx.query });
    const passes = await ledger.reconciliations(ctx.params.name!, limit);
    if (passes === undefined) throw new AbideError('not-found', 'The store is not registered.');
    const listing = await ledger.listing(ctx.params.name!);
    ctx.body = {
      store: ctx.params.name,
      passes: passes.map(render),
      ...(listing === undefined ? {} : { listing: renderListing(listing) }),
    };
  });

  routes.add(begin, async (ctx) => {
    const id = await ledger.reconcile(ctx.params.name!, authorizedOf(ctx).caller);
    if (id === undefined)
      throw new AbideError('not-found', 'No store of this name is in service and can be read back.');
    ctx.status = 202;
    ctx.body = { store: ctx.params.name, id };
  });

  routes.add(next, async (ctx) => {
    requireStore(ctx, ctx.params.name!);
    const { worker } = parse(PageQuery, { ...ctx.query });
    const page = await ledger.reconciliationPage(ctx.params.name!, worker);
    ctx.body = {
      page:
        page === undefined
          ? null
          : {
              run: page.run,
              generation: page.generation,
              after: page.after,
              through: page.through,
              last: page.isLast,
              decisions: page.decisions.map(renderDecision),
              ...(page.own === undefined
                ? {}
                : { own: { scopes: page.own.scopes, others: page.own.others.map(renderDecision) } }),
              pause_ms: page.pauseMs,
            },
    };
  });

  routes.add(report, async (ctx) => {
    requireStore(ctx, ctx.params.name!);
    const body = parse(Compared, await readJson(ctx, BYTES_MAX));
    const { run, generation, after, through, last, compared, own, unread, differences } = body;
    const taken = await ledger.compared(
      ctx.params.name!,
      { run, generation, after, through, isLast: last },
      {
        compared,
        own,
        ownSuppressions: body.own_suppressions,
        unread,
        differences: differences.map((one) => ({
          seq: one.seq,
          kind: one.kind,
          heldVersion: one.held_version ?? undefined,
        })),
      },
    );
    ctx.body = { taken };
  });

  routes.add(nextListing, async (ctx) => {
    requireStore(ctx, ctx.params.name!);
    const { worker } = parse(PageQuery, { ...ctx.query });
    const page = await ledger.listingPage(ctx.params.name!, worker);
    ctx.body = {
      page:
        page === undefined
          ? null
          : {
              generation: page.generation,
              pages: page.pages,
              after: page.after ?? null,
              scopes: page.scopes,
              pause_ms: page.pauseMs,
            },
    };
  });

  routes.add(reportListing, async (ctx) => {
    requireStore(ctx, ctx.params.name!);
    const { generation, pages, through, last, listed, suppressed } = parse(
      ListedBody,
      await readJson(ctx, BYTES_MAX),
    );
    const taken = await ledger.listed(
      ctx.params.name!,
      { generation, pages },
      { through: through ?? undefined, isLast: last, listed, suppressed },
    );
    ctx.body = { taken };
  });
}
