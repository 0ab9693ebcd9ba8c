<?php

declare(strict_types=1);

namespace OmegaUp;

/** What is read far more often than it changes: each page is one prefix of the cache. */
final class Pages
{
    private const STATEMENT_MAX_BYTES = 1 << 20;
    private const TAG = '/\A[a-z0-9-]{1,32}\z/';
    private const LANGUAGE = '/\A[a-z]{2}\z/';
    private const CODE = '/\A[0-9A-Z]{10}\z/';

    /** @throws \Exception */
    public static function schoolRank(Request $request): void
    {
        $page = $request->queryInt('page', 1, 1, 10000);
        $length = $request->queryInt('length', 100, 1, 100);
        [$rank, $headers] = self::cached(
            Cache::SCHOOL_RANK,
            "{$page}-{$length}",
            static fn (): array => DAO\Schools::getRank($page, $length),
        );
        Response::json(200, ['status' => 'ok', 'page' => $page, 'length' => $length, 'rank' => $rank], $headers);
    }

    /** @throws \Exception */
    public static function statement(string $alias, string $language): void
    {
        self::match(Request::NAME, $alias);
        self::match(self::LANGUAGE, $language);
        [$text, $headers] = self::cached(
            Cache::PROBLEM_STATEMENT,
            Cache::statementId($alias, $language),
            static fn (): string => self::gitserver()->call("/problem/$alias/statement/$language"),
        );
        Response::json(200, ['status' => 'ok', 'alias' => $alias, 'language' => $language, 'statement' => $text], $headers);
    }

    /**
     * With the reference login alone, under which anybody is anybody: it shows how a cached value is invalidated.
     *
     * @throws \Exception
     */
    public static function replaceStatement(Request $request, string $alias, string $language): void
    {
        if (!Config::bool('OMEGAUP_REFERENCE_LOGIN')) {
            throw new HttpException(405, 'method not allowed', headers: ['Allow' => 'GET']);
        }
        self::match(Request::NAME, $alias);
        self::match(self::LANGUAGE, $language);
        if (Session::get($request->cookie(Session::COOKIE)) === null) {
            throw new HttpException(401, 'not logged in');
        }
        $text = $request->text(self::STATEMENT_MAX_BYTES);
        self::gitserver()->call("/problem/$alias/statement/$language", 'PUT', $text, type: 'text/markdown');
        // Only now: before, somebody could store the old text anew.
        $invalidated = Cache::invalidateAllKeys(Cache::PROBLEM_STATEMENT, $alias);
        Response::json(200, ['status' => 'ok', 'invalidated' => $invalidated]);
    }

    /** @throws \Exception */
    public static function scoreboard(string $contest): void
    {
        self::match(Request::NAME, $contest);
        [$problems, $headers] = self::cached(
            Cache::SCOREBOARD,
            $contest,
            static fn (): array => DAO\Contests::getScoreboard($contest),
        );
        Response::json(200, ['status' => 'ok', 'contest' => $contest, 'problems' => $problems], $headers);
    }

    /** @throws \Exception */
    public static function tags(Request $request): void
    {
        $prefix = $request->query['prefix'] ?? '';
        if (!is_string($prefix) || preg_match(self::TAG, $prefix) !== 1) {
            throw new HttpException(422, 'prefix: expected 1 to 32 small letters, digits or dashes');
        }
        [$tags, $headers] = self::cached(Cache::TAGS, $prefix, static fn (): array => DAO\Tags::beginningWith($prefix));
        Response::json(200, ['status' => 'ok', 'prefix' => $prefix, 'tags' => $tags], $headers);
    }

    /** @throws \Exception */
    public static function certificate(string $code): void
    {
        self::match(self::CODE, $code);
        $pdf = DAO\Certificates::getPdf($code) ?? throw new HttpException(404, 'no such certificate');
        Response::pdf($pdf, "certificate-$code.pdf");
    }

    private static function gitserver(): Backend
    {
        return new Backend('gitserver', Config::string('OMEGAUP_GITSERVER_URL'));
    }

    private static function match(string $pattern, string $name): void
    {
        if (preg_match($pattern, $name) !== 1) {
            throw new HttpException(404, 'not found');
        }
    }

    /**
     * @template T of array<mixed>|scalar|null
     * @param callable(): T $compute
     * @return array{T, array<string, string>} the value, and a header that says whether it was there
     */
    private static function cached(string $prefix, string $id, callable $compute): array
    {
        $cache = 'hit';
        $value = Cache::getFromCacheOrSet($prefix, $id, static function () use ($compute, &$cache): mixed {
            $cache = 'miss';
            return $compute();
        });
        return [$value, ['X-Cache' => $cache]];
    }
}
