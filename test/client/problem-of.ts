import { expect } from '@jest/globals';
import { AbideProblem } from 'abide/client';

/** What a call throws, which must be a problem. */
export async function problemOf(call: Promise<unknown>): Promise<AbideProblem> {
  const error = await call.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(AbideProblem);
  return error as AbideProblem;
}
