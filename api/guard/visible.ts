import type { Context } from 'koa';
import type { FoundOptOut, Ledger } from '../../ledger/ledger.ts';
import { AbideError } from '../../suppression/errors.ts';
import { authorizedOf } from './authorize.ts';

/** What a key may see: its own client's opt-outs, or with opt_outs:read_all everybody's. */
export const visibleClient = (ctx: Context): string | undefined => {
  const { key } = authorizedOf(ctx);
  return key.scopes.includes('opt_outs:read_all') ? undefined : key.client;
};

/** One opt-out that the key may see; anything else is not found, and does not tell why. */
export async function findVisible(ctx: Context, ledger: Ledger, id: string): Promise<FoundOptOut> {
  const found = await ledger.findOptOut(id, visibleClient(ctx));
  if (found === undefined) throw new AbideError('not-found');
  return found;
}
