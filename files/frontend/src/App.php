<?php

declare(strict_types=1);

namespace OmegaUp;

/** The routes, and the one place where a failure becomes an answer. */
final class App
{
    private const CERTIFICATES_MAX_BYTES = 4 << 20;
    private const LOGIN_MAX_BYTES = 4096;
    private const PAUSE_MICROSECONDS = 200_000;

    /** Not reachable, gone in the middle, going down, taking no writes at the moment. */
    private const MYSQL_AWAY = [2002, 2003, 2006, 2013, 1053, 1290, 1836];

    private const ROUTES = [
        '/', '/health', '/health/', '/health/live', '/metrics', '/submit', '/certificates', '/schools/rank', '/login',
        '/logout', '/session',
    ];

    private ?string $submissionId = null;

    public static function main(): void
    {
        ini_set('display_errors', '0');
        ini_set('log_errors', '1');
        set_error_handler(self::onWarning(...));
        register_shutdown_function(self::onShutdown(...));
        $begun = hrtime(true);
        $request = Request::fromGlobals();
        self::answer($request);
        Metrics::observe(self::route($request->path), (int)http_response_code(), (hrtime(true) - $begun) / 1e9);
    }

    private static function answer(Request $request): void
    {
        try {
            (new self())->patiently($request);
        } catch (HttpException $error) {
            Response::json(
                $error->status,
                ['status' => 'error', 'error' => $error->getMessage()] + $error->body,
                $error->headers,
            );
        } catch (\mysqli_sql_exception $error) {
            Log::failure('mysql', $error);
            Response::json(503, ['status' => 'error', 'error' => 'mysql: ' . Log::reason($error)]);
        } catch (\RedisException $error) {
            Log::failure('redis', $error);
            Response::json(503, ['status' => 'error', 'error' => 'redis: ' . Log::reason($error)]);
        } catch (\Throwable $error) {
            Log::failure("internal error at {$error->getFile()}:{$error->getLine()}", $error);
            Response::json(500, ['status' => 'error', 'error' => 'internal error']);
        }
    }

    /**
     * A part that fails over is away for a second or two: the request waits and is tried again, which is safe for all of
     * them. A submission keeps its id, and an order for certificates is idempotent.
     *
     * @throws \Exception
     */
    private function patiently(Request $request): void
    {
        $begun = hrtime(true);
        while (true) {
            try {
                $this->handle($request);
                return;
            } catch (HttpException | \mysqli_sql_exception | \RedisException $error) {
                // A health check says how it is now.
                if (!self::mayPass($error) || str_starts_with($request->path, '/health')) {
                    throw $error;
                }
                if (hrtime(true) - $begun >= 1_000_000_000 * Config::int('OMEGAUP_PATIENCE_SECONDS')) {
                    throw $error;
                }
            }
            usleep(self::PAUSE_MICROSECONDS);
            MySQLConnection::forget();
            RedisConnection::forget();
        }
    }

    private static function mayPass(\Exception $error): bool
    {
        return match (true) {
            $error instanceof HttpException => in_array($error->status, [502, 503], true),
            $error instanceof \mysqli_sql_exception => in_array($error->getCode(), self::MYSQL_AWAY, true),
            default => true,
        };
    }

    /** @throws \Exception */
    private function handle(Request $request): void
    {
        // Before the configuration: this one only says that PHP runs.
        if ($request->path === '/health/live') {
            $this->allow($request, 'GET', 'HEAD');
            Response::json(200, ['status' => 'ok']);
            return;
        }
        if ($request->path === '/metrics') {
            // nginx lets nobody else through; here too, should it ever be another server.
            if (!in_array($request->ip, ['127.0.0.1', '::1'], true)) {
                throw new HttpException(404, 'not found');
            }
            $this->allow($request, 'GET');
            Response::text(Metrics::text());
            return;
        }
        Config::load();
        if (preg_match('#\A/submission/([^/]+)\z#', $request->path, $match) === 1) {
            $this->allow($request, 'GET');
            $this->submission(rawurldecode($match[1]));
            return;
        }
        if (preg_match('#\A/problem/([^/]+)/statement/([^/]+)\z#', $request->path, $match) === 1) {
            $this->allow($request, 'GET', 'PUT');
            $names = [rawurldecode($match[1]), rawurldecode($match[2])];
            $request->method === 'PUT' ? Pages::replaceStatement($request, ...$names) : Pages::statement(...$names);
            return;
        }
        if (preg_match('#\A/contest/([^/]+)/scoreboard\z#', $request->path, $match) === 1) {
            $this->allow($request, 'GET');
            Pages::scoreboard(rawurldecode($match[1]));
            return;
        }
        if (preg_match('#\A/certificate/([^/]+)\z#', $request->path, $match) === 1) {
            $this->allow($request, 'GET');
            Pages::certificate(rawurldecode($match[1]));
            return;
        }
        [$methods, $action] = match ($request->path) {
            '/' => [['GET', 'HEAD'], $this->home(...)],
            '/health', '/health/' => [['GET', 'HEAD'], $this->health(...)],
            '/submit' => [['POST'], $this->submit(...)],
            '/certificates' => [['POST'], $this->certificates(...)],
            '/schools/rank' => [['GET'], Pages::schoolRank(...)],
            '/tags' => [['GET'], Pages::tags(...)],
            '/login' => [['POST'], $this->login(...)],
            '/logout' => [['POST'], $this->logout(...)],
            '/session' => [['GET'], $this->session(...)],
            default => throw new HttpException(404, 'not found'),
        };
        $this->allow($request, ...$methods);
        $action($request);
    }

    /** What a request counts as: one of a few, whatever was sent. */
    private static function route(string $path): string
    {
        return match (true) {
            in_array($path, self::ROUTES, true) => rtrim($path, '/') === '' ? '/' : rtrim($path, '/'),
            str_starts_with($path, '/submission/') => '/submission',
            default => 'other',
        };
    }

    private function allow(Request $request, string ...$methods): void
    {
        if (!in_array($request->method, $methods, true)) {
            throw new HttpException(405, 'method not allowed', headers: ['Allow' => implode(', ', $methods)]);
        }
    }

    private function home(): void
    {
        Response::html((string)file_get_contents(__DIR__ . '/home.html'));
    }

    private function health(): void
    {
        $report = Health::report();
        Response::json($report['status'] === 'error' ? 503 : 200, $report);
    }

    private function submit(Request $request): void
    {
        RateLimit::check($request->ip, 'submit');
        $maximum = Config::int('OMEGAUP_MAX_SOURCE_BYTES');
        // JSON may write a byte as six.
        $input = $request->input(6 * $maximum + 65536, true);
        $submission = [
            // Ours, unless the client brings one in order to be able to try again.
            'submission_id' => isset($input['submission_id'])
                ? $this->name($input, 'submission_id')
                : $this->submissionId ??= bin2hex(random_bytes(16)),
            'problem' => $this->name($input, 'problem'),
            'language' => $this->name($input, 'language'),
        ];
        $source = $input['source'] ?? null;
        if (!is_string($source) || $source === '' || !mb_check_encoding($source, 'UTF-8')) {
            throw new HttpException(422, 'source: expected text in UTF-8');
        }
        if (strlen($source) > $maximum) {
            throw new HttpException(413, "source: more than $maximum bytes");
        }
        $submission['source'] = $source;
        if (isset($input['contest'])) {
            $submission['contest'] = $this->name($input, 'contest');
        }
        Response::json(202, Submissions::hand($submission));
    }

    private function submission(string $id): void
    {
        if (preg_match(Request::NAME, $id) !== 1) {
            throw new HttpException(404, 'no such submission');
        }
        Response::json(200, ['status' => 'ok'] + (new Grader())->submissionStatus($id));
    }

    private function certificates(Request $request): void
    {
        $input = $request->input(self::CERTIFICATES_MAX_BYTES, false);
        try {
            Certificates::request($input);
        } catch (PublishException $error) {
            // queued: "no" is certain. "unknown": sent but not confirmed; asking again is safe, the worker is idempotent.
            $body = ['queued' => $error->unknown ? 'unknown' : 'no'];
            throw new HttpException(503, 'rabbitmq: ' . $error->getMessage(), $body, previous: $error);
        }
        Response::json(202, ['status' => 'queued']);
    }

    private function login(Request $request): void
    {
        // Anyone may become anyone here: it shows how sessions are kept, and is off unless the configuration says so.
        if (!Config::bool('OMEGAUP_REFERENCE_LOGIN')) {
            throw new HttpException(404, 'not found');
        }
        $input = $request->input(self::LOGIN_MAX_BYTES, true);
        $identityId = $this->positive($input, 'identity_id', null);
        $token = Session::create($identityId, $this->positive($input, 'user_id', $identityId), $request->ip);
        // A new token per login, and the old one ends: a token planted in the browser is worth nothing afterwards.
        Session::delete($request->cookie(Session::COOKIE));
        $this->setCookie($request, $token, time() + Cache::TTL[Cache::SESSION_PREFIX]);
        Response::json(200, ['status' => 'ok', 'identity_id' => $identityId]);
    }

    private function logout(Request $request): void
    {
        Session::delete($request->cookie(Session::COOKIE));
        $this->setCookie($request, '', 1);
        Response::json(200, ['status' => 'ok']);
    }

    private function session(Request $request): void
    {
        $session = Session::get($request->cookie(Session::COOKIE)) ?? throw new HttpException(401, 'not logged in');
        Response::json(200, ['status' => 'ok', 'session' => $session]);
    }

    private function setCookie(Request $request, string $value, int $expires): void
    {
        setcookie(Session::COOKIE, $value, [
            'expires' => $expires,
            'path' => '/',
            'secure' => $request->secure,
            'httponly' => true,
            'samesite' => 'Lax',
        ]);
    }

    /** @param array<mixed> $input */
    private function name(array $input, string $field): string
    {
        $value = $input[$field] ?? null;
        return is_string($value) && preg_match(Request::NAME, $value) === 1
            ? $value
            : throw new HttpException(422, "$field: expected 1 to 64 letters, digits, dots, dashes or underscores");
    }

    /** @param array<mixed> $input */
    private function positive(array $input, string $field, ?int $default): int
    {
        $value = filter_var($input[$field] ?? $default, FILTER_VALIDATE_INT, ['options' => ['min_range' => 1]]);
        return is_int($value) ? $value : throw new HttpException(422, "$field: expected a positive integer");
    }

    /** Warnings that nobody asked to be silent are bugs. Deprecations in libraries are not ours to fail on. */
    private static function onWarning(int $level, string $message, string $file, int $line): bool
    {
        if ((error_reporting() & $level) === 0 || ($level & (E_DEPRECATED | E_USER_DEPRECATED)) !== 0) {
            return true;
        }
        throw new \ErrorException($message, 0, $level, $file, $line);
    }

    /** Memory or time exhausted: no exception reaches main() then, and the answer would be an empty page. */
    private static function onShutdown(): void
    {
        $error = error_get_last();
        if ($error !== null && ($error['type'] & (E_ERROR | E_CORE_ERROR | E_COMPILE_ERROR)) !== 0 && !headers_sent()) {
            Response::json(500, ['status' => 'error', 'error' => 'internal error']);
        }
    }
}
