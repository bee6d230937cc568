import { readFileSync } from 'node:fs';
import { platform } from 'node:os';
import { causeCode } from '../suppression/errors.ts';

/** What Linux says of a process in /proc/PID/stat, from its state on; undefined: there is none, or this is no Linux. */
export function readProcStat(pid: number): readonly string[] | undefined {
  if (platform() !== 'linux') return undefined;
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name in parentheses before the state may hold anything.
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

/** Whether it has ended but was not reaped: in many containers the first process, which adopts orphans, never reaps. */
export const isEnded = ([state]: readonly string[]): boolean => state === 'Z' || state === 'X';

/** Whether a process has the number, be it one that has ended. */
export const isTaken = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return causeCode(error) === 'EPERM';
  }
};

export const isAlive = (pid: number): boolean => {
  const stat = readProcStat(pid);
  return isTaken(pid) && !(stat !== undefined && isEnded(stat));
};
