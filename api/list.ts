import type { Context } from 'koa';
import { z } from 'zod';
import { REASONS } from '../ledger/contract/opt-outs.ts';
import { shortText } from './bounded-text.ts';
import { InstantSchema } from './instant.ts';
import type { HeaderField } from './operation.ts';
import { PROPAGATION_STATES } from './propagation-shape.ts';
import { queryInteger } from './guard/read-body.ts';

/** Where a list goes on. */
export const CURSOR = shortText(200).describe('`next_cursor` of the page before.').optional();
export const LINK: Readonly<Record<string, HeaderField>> = {
  Link: {
    description: 'The next page, `rel="next"` (RFC 8288); absent on the last one.',
    schema: z.string(),
  },
};

/** Names the page after this one, with the rest of the query as it is. */
export function linkNext(ctx: Context, nextCursor: string | undefined): void {
  if (nextCursor === undefined) return;
  const next = new URLSearchParams(ctx.querystring);
  next.set('cursor', nextCursor);
  ctx.append('Link', `<${ctx.path}?${next.toString()}>; rel="next"`);
}

/** What a list of opt-outs may be asked for. */
export const OptOutListQuery = z.strictObject({
  limit: queryInteger(100)
    .default(20)
    .describe(
      'The most that a page has. A filtered one may have fewer, or none, and there may still be a next one.',
    ),
  cursor: CURSOR,
  since: InstantSchema.describe('Recorded at this time or later, RFC 3339 with an offset.').optional(),
  until: InstantSchema.describe('Recorded before this time, RFC 3339 with an offset.').optional(),
  state: z.enum(PROPAGATION_STATES).describe('Those whose propagation is in this state now.').optional(),
  store: shortText(63)
    .describe('Those that this store must hold; with `state`, by what this store has confirmed.')
    .optional(),
  reason: z.enum(REASONS).describe('Recorded for this reason.').optional(),
});
