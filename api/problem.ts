// Every error that leaves is an RFC 9457 problem, including the framework's own. What it says comes from one table; the offending
// value is never in it.
import type { Context } from 'koa';
import { AbideError, ERRORS } from '../suppression/errors.ts';
import type { ErrorCode, Fault } from '../suppression/errors.ts';

export type Problem = {
  type: string;
  title: string;
  status: number;
  detail: string;
  code: ErrorCode;
  request_id: string;
  retryable: boolean;
  errors?: readonly Fault[];
};

export const PROBLEM_TYPE = 'application/problem+json';

export function toProblem(error: AbideError, requestId: string): Problem {
  const { status, title, retryable, help } = ERRORS[error.code];
  return {
    type: `urn:abide:problem:${error.code}`,
    title,
    status,
    detail: error.message === title ? help : error.message,
    code: error.code,
    request_id: requestId,
    retryable,
    ...(error.errors === undefined ? {} : { errors: error.errors }),
  };
}

export function answerProblem(ctx: Context, error: AbideError, requestId: string): void {
  const problem = toProblem(error, requestId);
  ctx.status = problem.status;
  const later = problem.retryable && RETRIED_LATER.includes(problem.status);
  const retryAfter = error.retryAfterSeconds ?? (later ? 1 : undefined);
  if (retryAfter !== undefined) ctx.set('Retry-After', String(retryAfter));
  if (problem.status === 401) ctx.set('WWW-Authenticate', 'Bearer realm="abide"');
  ctx.type = PROBLEM_TYPE;
  ctx.body = JSON.stringify(problem);
}

/** Answers with these statuses promise a better one later, and say when. */
export const RETRIED_LATER: readonly number[] = [409, 429, 503];

/**
 * What an error means to the client: our own as it is; the framework's if it blames the request; anything else is our fault and
 * says nothing.
 */
export function asAbideError(error: unknown): AbideError {
  if (error instanceof AbideError) return error;
  const { status, expose } = (error ?? {}) as { status?: unknown; expose?: unknown };
  const isTheirs = expose === true && typeof status === 'number' && status >= 400 && status < 500;
  return new AbideError(isTheirs ? 'invalid-request' : 'internal-error', undefined, { cause: error });
}
