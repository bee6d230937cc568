// What is typed, as Commander asks for it: a value, or InvalidArgumentError.
import { InvalidArgumentError } from 'commander';
import { toInstant } from '../suppression/instant.ts';

export const readInstant = (text: string): string => {
  const instant = toInstant(text);
  if (instant !== undefined) return instant;
  throw new InvalidArgumentError('Give a time with an offset, such as 2026-11-24T09:00:00Z.');
};

export const readCount =
  (least: number) =>
  (text: string): number => {
    if (/^\d{1,15}$/.test(text) && Number(text) >= least) return Number(text);
    throw new InvalidArgumentError(`Give a whole number, ${least} or more.`);
  };
