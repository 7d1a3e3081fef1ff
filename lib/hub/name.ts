import { rangeError, show } from '../errors.ts';

/** A model of the hub, at a branch, a tag or a commit. */
export interface ModelName {
  /** `org/name` */
  repo: string;
  revision: string;
}

const REPO = /^[A-Za-z0-9_][\w.-]*\/[A-Za-z0-9_][\w.-]*$/;
const REVISION = /^\w[\w.+-]*(\/\w[\w.+-]*)*$/;
const MAX_REPO = 96;
const MAX_REVISION = 200;

export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision);

/** Whether a text can name a model of the hub: `org/name` or `org/name@revision`, and nothing that a path begins with. */
export const isModelName = (text: string): boolean => {
  const [repo, revision, ...rest] = text.split('@') as [string, ...string[]];
  return isRepo(repo) && rest.length === 0 && (revision === undefined || isRevision(revision));
};

/** @throws RangeError ERR_ARG_MODEL */
export function parseModelName(text: string, revision?: string): ModelName {
  const [repo, named] = text.split('@') as [string, string?];
  if (!isModelName(text))
    throw rangeError('ERR_ARG_MODEL', `a model of the hub is org/name or org/name@revision, got ${show(text)}`);
  if (revision !== undefined && !isRevision(revision))
    throw rangeError('ERR_ARG_MODEL', `a revision is a branch, a tag or a commit, got ${show(revision)}`);
  if (revision !== undefined && named !== undefined && revision !== named)
    throw rangeError('ERR_ARG_MODEL', `${text} and the revision ${revision} are not the same`);
  return { repo, revision: revision ?? named ?? 'main' };
}

// The hub's own rules; `--` joins the parts in the cache.
const isRepo = (text: string): boolean =>
  text.length <= MAX_REPO && REPO.test(text) && !/--|\.\.|[.-](\/|$)|\.git$/.test(text);

const isRevision = (text: unknown): boolean =>
  typeof text === 'string' && text.length <= MAX_REVISION && REVISION.test(text) && !/\.\.|\.(\/|$)/.test(text);
