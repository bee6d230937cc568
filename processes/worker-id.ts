import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';

/**
 * What leases, lag and quarantine know a worker by, for as long as its process lives. Host and process number are for people: containers
 * may share a host's name, and each is process 1 in its own. One that is killed and started again is another worker, and waits for up to
 * 5 s until the lease is over.
 */
export const makeWorkerId = (): string => `${hostname()}-${process.pid}-${randomBytes(4).toString('hex')}`;
