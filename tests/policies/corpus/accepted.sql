-- counts
SELECT COUNT(*) FROM insurer.plans;
SELECT COUNT(admissions) AS n FROM clinic.care;
SELECT COUNT(DISTINCT person_id) AS people FROM insurer.plans WHERE female = 1;
SELECT COUNT(DISTINCT region) AS regions FROM insurer.plans;
SELECT COUNT_IF(medical_spend > 100.50) AS costly FROM insurer.plans;
SELECT COUNT(*) FILTER (WHERE female = 1 AND year IN (1, 2)) AS f FROM insurer.plans;
SELECT COUNT(1) AS n, COUNT(person_id) AS m FROM insurer.plans;
-- sums, means and spread
SELECT SUM(medical_spend) AS s, AVG(medical_spend) AS a FROM insurer.plans;
SELECT VARIANCE(doctor_visits) AS v, VAR_POP(doctor_visits) AS vp, STDDEV(doctor_visits) AS s, STDDEV_POP(doctor_visits) AS sp FROM clinic.care;
SELECT COVAR_POP(doctor_visits, admissions) AS c, COVAR_SAMP(doctor_visits, admissions) AS d, CORR(doctor_visits, admissions) AS r FROM clinic.care;
SELECT AVG(CASE WHEN admissions > 0 THEN doctor_visits END) AS a FROM clinic.care;
SELECT SUM(IF(doctor_visits BETWEEN 1 AND 3, 1, 0)) AS few FROM clinic.care;
SELECT SUM(LEAST(GREATEST(doctor_visits - 2, 0), 10) * 1.5) AS s FROM clinic.care;
SELECT SUM(ROUND(medical_spend / 3, 2)) AS s, SUM(CEIL(medical_spend)) AS c, SUM(SIGN(medical_spend - 10)) AS g FROM insurer.plans;
SELECT AVG(ABS(doctor_visits - COALESCE(admissions, 0))) AS a FROM clinic.care;
SELECT SUM(CAST(medical_spend AS INTEGER)) AS i, SUM(TRY_CAST(medical_spend AS DECIMAL(10, 1))) AS d FROM insurer.plans;
SELECT SUM(doctor_visits // 2) AS h, SUM(doctor_visits % 3) AS m, SUM(MOD(doctor_visits, 4)) AS f FROM clinic.care;
-- ranks
SELECT MEDIAN(medical_spend) AS m, QUANTILE(medical_spend, 0.9) AS q, MIN(medical_spend) AS lo, MAX(medical_spend) AS hi FROM insurer.plans;
SELECT PERCENTILE_CONT(0.25) WITHIN GROUP (ORDER BY doctor_visits) AS q, QUANTILE_CONT(doctor_visits, 0.75) AS r FROM clinic.care;
SELECT APPROX_QUANTILE(doctor_visits, 0.5) AS q, MEDIAN(born) AS b FROM clinic.care JOIN insurer.plans USING (person_id, year);
-- groups
SELECT coinsurance, year, COUNT(*) AS n FROM insurer.plans GROUP BY coinsurance, year;
SELECT year AS y, COUNT(*) AS n FROM insurer.plans GROUP BY y HAVING COUNT(*) > 10 AND n < 10000 ORDER BY n DESC, y LIMIT 3;
SELECT year, AVG(medical_spend) FROM insurer.plans GROUP BY 1 ORDER BY 2 DESC;
SELECT CASE WHEN female = 1 THEN 'women' ELSE 'men' END AS sex, COUNT(*) AS n FROM insurer.plans GROUP BY sex;
SELECT CASE coinsurance WHEN 0 THEN 'free' WHEN 95 THEN 'high' END AS plan, COUNT(*) AS n FROM insurer.plans GROUP BY plan;
SELECT FLOOR(medical_spend / 100) * 100 AS bin, COUNT(*) AS n FROM insurer.plans GROUP BY bin;
SELECT WIDTH_BUCKET(medical_spend, 0, 2000, 8) AS bin, COUNT(*) AS n FROM insurer.plans GROUP BY bin;
SELECT DATE_TRUNC('year', born) AS y, COUNT(*) AS n FROM insurer.plans GROUP BY DATE_TRUNC('year', born);
SELECT EXTRACT(month FROM born) AS m, DATE_PART('dow', born) AS d, COUNT(*) AS n FROM insurer.plans GROUP BY m, d;
SELECT medical_spend > 1000 AS costly, COUNT(*) AS n FROM insurer.plans GROUP BY costly;
SELECT region, COUNT(*) AS n FROM insurer.plans GROUP BY region;
SELECT UPPER(SUBSTRING(region, 1, 2)) AS r, COUNT(*) AS n FROM insurer.plans GROUP BY r;
-- conditions
SELECT COUNT(*) AS n FROM insurer.plans WHERE region LIKE 'n%' AND NOT region IN ('x', 'y') AND LENGTH(TRIM(region)) > 2;
SELECT COUNT(*) AS n FROM insurer.plans WHERE born >= '1970-01-31' AND born < DATE '1980-01-01' AND YEAR(born) <> 1975;
SELECT COUNT(*) AS n FROM clinic.care WHERE admissions IS NOT NULL OR (doctor_visits > 3 AND NULLIF(doctor_visits, 5) < 9);
SELECT COUNT(*) AS n FROM insurer.plans WHERE DATE_DIFF('day', DATE '1960-01-01', born) > 1000 AND (medical_spend > 5) IS TRUE;
SELECT COUNT(*) AS n FROM insurer.plans WHERE TRY_CAST(region AS INTEGER) = 5;
-- joins
SELECT coinsurance, AVG(doctor_visits) AS v FROM insurer.plans JOIN clinic.care USING (person_id, year) GROUP BY coinsurance;
SELECT COUNT(*) AS n FROM insurer.plans AS p INNER JOIN clinic.care AS c ON c.person_id = p.person_id;
SELECT r.area, COUNT(*) AS n FROM insurer.plans p JOIN ref.regions r ON p.region = r.region GROUP BY r.area;
SELECT COUNT(*) AS n FROM ref.regions r JOIN insurer.plans p USING (region) JOIN clinic.care c ON c.person_id = p.person_id AND c.year = p.year;
SELECT COUNT(*) AS n FROM insurer.plans a JOIN insurer.plans b ON a.person_id = b.person_id AND a.year = b.year;
-- subqueries
SELECT AVG(total) AS mean_total FROM (SELECT person_id, SUM(medical_spend) AS total FROM insurer.plans GROUP BY person_id) AS s;
WITH v AS (SELECT person_id, COUNT(*) AS years, MAX(doctor_visits) AS most FROM clinic.care GROUP BY 1 HAVING COUNT(*) >= 2) SELECT years, COUNT(*) AS people FROM v WHERE most > 3 GROUP BY years;
WITH c AS (SELECT person_id, year, medical_spend * 2 AS twice FROM insurer.plans WHERE female = 1), d AS (SELECT * FROM c WHERE twice > 10) SELECT year, SUM(twice) AS s FROM d GROUP BY year;
SELECT AVG(q.visits / q.years) AS a FROM (SELECT person_id, SUM(doctor_visits) AS visits, COUNT(*) AS years FROM clinic.care GROUP BY person_id) q JOIN insurer.plans p ON p.person_id = q.person_id WHERE p.female = 1;
SELECT COUNT(*) AS n FROM (SELECT person_id, year, COUNT(*) FILTER (WHERE admissions > 0) AS a FROM clinic.care GROUP BY person_id, year) q WHERE a > 0;
SELECT AVG(CASE WHEN total > 500 THEN 1 ELSE 0 END) AS share FROM (SELECT person_id, SUM(medical_spend) AS total FROM insurer.plans GROUP BY person_id) s;
SELECT female, MEDIAN(born) AS m, COUNT(*) AS n FROM insurer.plans GROUP BY female HAVING m > DATE '1901-01-01' AND m < '1999-12-31';
SELECT MIN(born) AS first, MAX(born) AS last, QUANTILE(born, 0.1) AS q FROM insurer.plans;
-- habits of other dialects that mean the same here
SELECT COUNT(1) AS n, COUNT(ALL doctor_visits) AS v, COUNTIF(doctor_visits > 2) AS some FROM clinic.care WHERE TRUE;
SELECT /* in the text */ COUNT(*) AS n, FROM clinic.care -- and after it
WHERE year == 1 AND admissions != 0;
FROM clinic.care SELECT COUNT(*) AS n WHERE year = 1_0 OR doctor_visits > .5;
SELECT n: COUNT(*), "select": SUM("doctor_visits") FROM "clinic"."care" AS "c" WHERE "c"."admissions" ISNULL;
SELECT clinic.care.year, COUNT(*) AS n FROM Clinic.Care GROUP BY care.year ORDER BY COUNT(*) DESC NULLS LAST;
SELECT YEAR(born) - YEAR(born) % 10 AS decade, COUNT(*) AS n FROM insurer.plans GROUP BY decade;
SELECT COUNT(*) AS n FROM insurer.plans WHERE SUBSTRING(region FROM 1 FOR 1) = 'n' AND CHAR_LENGTH(region) > 3 AND region <> 'o''brien';
SELECT AVG((doctor_visits > 2)::INT) AS share, AVG(CAST(doctor_visits AS NUMERIC)) AS a FROM clinic.care;
SELECT year, COUNT(*) AS n FROM clinic.care GROUP BY 1 HAVING COUNT(*) BETWEEN 10 AND 1000;
-- values at the edges of their functions
SELECT SUM(doctor_visits // 3) AS s, SUM((doctor_visits - 6) // 4) AS t, SUM((doctor_visits - 6) % 4) AS u FROM clinic.care;
SELECT SUM(ROUND(medical_spend)) AS a, SUM(ROUND(medical_spend - 500, 1)) AS b, SUM(ROUND(-medical_spend)) AS c FROM insurer.plans;
SELECT SUM(CAST(medical_spend AS INTEGER)) AS a, SUM(CAST(medical_spend - 700.5 AS INTEGER)) AS b FROM insurer.plans;
SELECT SUM(FLOOR(-medical_spend)) AS a, SUM(CEIL(-medical_spend)) AS b, SUM(ABS(medical_spend - 500)) AS c, SUM(SIGN(medical_spend - 500)) AS d FROM insurer.plans;
SELECT COUNT(*) AS n FROM insurer.plans WHERE region LIKE '%\%%';
SELECT COUNT(*) AS n FROM insurer.plans WHERE region > 'north';
SELECT COUNT(*) AS n FROM insurer.plans WHERE TRY_CAST(region AS INTEGER) IS NULL;
SELECT DATE_TRUNC('week', born) AS w, COUNT(*) AS n FROM insurer.plans WHERE born < '1900-06-01' GROUP BY w;
SELECT AVG(born - DATE '1900-01-01') AS d FROM insurer.plans;
SELECT COUNT(*) AS n FROM clinic.care WHERE NULLIF(admissions, 0) IS NULL;
SELECT SUM(CASE admissions WHEN 0 THEN 1 WHEN 1 THEN 10 ELSE 100 END) AS s FROM clinic.care;
SELECT AVG(v) AS a FROM (SELECT person_id, COUNT(DISTINCT admissions) AS v FROM clinic.care GROUP BY person_id) t;
SELECT COUNT(*) AS n FROM (SELECT person_id, SUM(admissions) AS v FROM clinic.care GROUP BY person_id) t WHERE v IS NULL;
SELECT AVG(a.total - b.total) AS d FROM (SELECT person_id, SUM(medical_spend) AS total FROM insurer.plans GROUP BY person_id) a JOIN (SELECT person_id, SUM(doctor_visits) AS total FROM clinic.care GROUP BY person_id) b USING (person_id);
SELECT SUM(medical_spend * 1.19) AS s, SUM(medical_spend / 7) AS t, SUM(medical_spend * medical_spend) AS q FROM insurer.plans;
SELECT YEAR(born) // 10 * 10 AS d, COUNT(*) AS n FROM insurer.plans GROUP BY d
