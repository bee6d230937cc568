import { freePort as freePortOf } from '../../processes/free-port.ts';

/** A port of 127.0.0.1 on which nobody listens now. */
export const freePort = (): Promise<number> => freePortOf('127.0.0.1');
