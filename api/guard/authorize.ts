import type { Context, Middleware, Next } from 'koa';
import type { ApiKey, KEY_SCOPES } from '../../ledger/contract/api-keys.ts';
import type { Caller } from '../../ledger/contract/audit.ts';
import type { Ledger } from '../../ledger/contract/ledger.ts';
import { AbideError } from '../../suppression/errors.ts';
import { CLASS_OF } from './limits.ts';
import type { Limits } from './limits.ts';
import { placeOf } from './rooms.ts';

/** What a call may require; `opt_outs:read_all` only widens what another one shows. */
export type KeyScope = Exclude<(typeof KEY_SCOPES)[number], 'opt_outs:read_all'>;

/** What is known of a request once it was let in. */
export type Authorized = {
  readonly key: ApiKey;
  readonly caller: Caller;
  /** False once the key expired or was revoked: for answers that go on for long. */
  readonly isStillValid: () => Promise<boolean>;
};

const BEARER = /^Bearer ([\x21-\x7e]{1,8192})$/i;

/** One scope, or one of several. */
export type Authorize = (...anyOf: readonly [KeyScope, ...KeyScope[]]) => Middleware;

/**
 * Lets in callers whose key has the scope; opt_outs:read_all includes opt_outs:read. Unknown, expired and revoked keys get one
 * answer. Every call counts towards the rate of its key, or of its address if it has no key. Throws AbideError: unauthenticated,
 * issuer-unavailable, missing-scope, too-many-requests, overloaded.
 */
export function createAuthorize(ledger: Pick<Ledger, 'authenticate'>, limits: Limits): Authorize {
  return (...anyOf) => {
    const callClass = CLASS_OF[anyOf[0]];
    return async (ctx: Context, next: Next) => {
      const token = BEARER.exec(ctx.req.headers.authorization ?? '')?.[1];
      const authenticate = async (): Promise<ApiKey | undefined> =>
        token === undefined ? undefined : await ledger.authenticate(token);
      const address = ctx.req.socket.remoteAddress ?? '';
      const key = await authenticate().catch((error: unknown) => {
        // Or whoever makes up tokens would not be limited while an issuer is away. A valid credential is let in all the same.
        if (!(error instanceof AbideError) || error.code !== 'issuer-unavailable') throw error;
        throw limits.failed(address, error);
      });
      if (key === undefined) throw limits.failed(address, new AbideError('unauthenticated'));
      if (callClass !== undefined) limits.call(ctx, key, callClass);
      const has = (scope: KeyScope): boolean =>
        key.scopes.includes(scope) || (scope === 'opt_outs:read' && key.scopes.includes('opt_outs:read_all'));
      if (!anyOf.some(has))
        throw new AbideError('missing-scope', `The key lacks the scope ${anyOf.join(' or ')}.`);
      placeOf(ctx).moveTo(callClass === undefined ? 'workers' : 'clients');
      const caller: Caller = {
        client: key.client,
        keyId: key.id,
        address,
        requestId: ctx.state.requestId as string,
        budgets: limits.budgetsOf(key),
      };
      const isStillValid = async (): Promise<boolean> => (await authenticate()) !== undefined;
      (ctx.state as { authorized: Authorized }).authorized = { key, caller, isStillValid };
      await next();
    };
  };
}

export const authorizedOf = (ctx: Context): Authorized =>
  (ctx.state as { authorized: Authorized }).authorized;

/** Only workers fetch keys, and a worker's key is bound to a store. */
export function requireSomeStore(ctx: Context): void {
  if (authorizedOf(ctx).key.store === undefined)
    throw new AbideError('missing-scope', 'The key has acknowledgements:write but is bound to no store.');
}

/** A worker speaks for its one store; it does not learn whether others exist. */
export function requireStore(ctx: Context, store: string): void {
  if (authorizedOf(ctx).key.store !== store)
    throw new AbideError('not-found', 'The key is not bound to this store.');
}
