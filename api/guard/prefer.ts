import type { Context } from 'koa';
import { z } from 'zod';
import { AbideError } from '../../suppression/errors.ts';
import type { HeaderField } from '../operation.ts';
import { authorizedOf } from './authorize.ts';
import { placeOf } from './rooms.ts';

const WAIT_SECONDS_MAX = 30;
const WAIT = /^\s*wait\s*=\s*("?)(\d+)\1\s*(?:;|$)/i;

export const PREFER: Readonly<Record<string, HeaderField>> = {
  Prefer: {
    description: `\`wait=N\` holds the answer for up to N seconds, at most ${WAIT_SECONDS_MAX} (RFC 7240). Absent: the answer comes at once.`,
    schema: z.string(),
  },
};
export const PREFERENCE_APPLIED: Readonly<Record<string, HeaderField>> = {
  'Preference-Applied': {
    description: 'The longest that the answer could be held: `wait=N`.',
    schema: z.string(),
  },
};

/**
 * How long the client would wait, in seconds (RFC 7240 `Prefer: wait=N`, at most 30); undefined if it does not ask to. Zero is a
 * wish as well: for the current propagation.
 */
export function preferredWait(ctx: Context): number | undefined {
  ctx.vary('Prefer');
  const header = ctx.req.headers.prefer;
  if (header === undefined) return undefined;
  for (const preference of (Array.isArray(header) ? header.join() : header).split(',')) {
    const asked = WAIT.exec(preference)?.[2];
    if (asked !== undefined) return Math.min(WAIT_SECONDS_MAX, Number(asked));
  }
  return undefined;
}

/** Said only of an answer that was held: an error has applied nothing. */
export function waited(ctx: Context, seconds: number | undefined): void {
  if (seconds !== undefined) ctx.set('Preference-Applied', `wait=${seconds}`);
}

/** The same after waiting, unless the key expired or was revoked meanwhile. Throws AbideError('unauthenticated'). */
export async function waitedStillValid(ctx: Context, seconds: number | undefined): Promise<void> {
  if (seconds !== undefined && seconds > 0 && !(await authorizedOf(ctx).isStillValid()))
    throw new AbideError('unauthenticated');
  waited(ctx, seconds);
}

/** Aborts when the client has gone or this server stops: nobody is left to wait for. */
export function goneSignal(ctx: Context, closing: AbortSignal): AbortSignal {
  const gone = new AbortController();
  ctx.res.once('close', () => gone.abort());
  return AbortSignal.any([gone.signal, closing]);
}

/** Takes a place among the held answers, and returns the signal that ends the wait. Throws AbideError('overloaded'). */
export function beginWait(
  ctx: Context,
  closing: AbortSignal,
  room: 'waits' | 'worker_waits' = 'waits',
): AbortSignal {
  placeOf(ctx).moveTo(room);
  return goneSignal(ctx, closing);
}
