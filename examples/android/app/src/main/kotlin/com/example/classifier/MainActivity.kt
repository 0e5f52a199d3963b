package com.example.classifier

import android.Manifest
import android.content.Intent
import android.content.pm.PackageManager
import android.graphics.Bitmap
import android.graphics.Matrix
import android.net.Uri
import android.os.Bundle
import android.os.SystemClock
import android.provider.Settings
import android.view.View
import android.widget.Button
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.contract.ActivityResultContracts
import androidx.camera.core.ImageProxy
import androidx.camera.view.CameraController
import androidx.camera.view.LifecycleCameraController
import androidx.camera.view.PreviewView
import classifier.Answer
import classifier.BundleFolder
import classifier.Classifier
import java.util.concurrent.Executors

private const val REFRESH_MS = 500L

/** Proves the bundle's model on this device, then names what the camera sees. */
class MainActivity : ComponentActivity() {
    private val worker = Executors.newSingleThreadExecutor()
    private var classifier: Classifier? = null // the worker's, once it is proven
    private val camera by lazy { LifecycleCameraController(this) }
    private lateinit var answers: TextView
    private lateinit var status: TextView
    private lateinit var allow: Button
    private var proof = ""
    private var shown: List<Answer> = emptyList()
    private var shownAt = 0L
    private val permission = registerForActivityResult(ActivityResultContracts.RequestPermission()) { onAnswer(it) }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.main)
        answers = findViewById(R.id.answers)
        status = findViewById(R.id.status)
        allow = findViewById(R.id.allow)
        allow.setOnClickListener { askAgain() }
        worker.execute { prove() }
    }

    override fun onStart() {
        super.onStart()
        if (proof.isNotEmpty() && isAllowed()) start() // back from the settings
    }

    override fun onDestroy() {
        camera.clearImageAnalysisAnalyzer()
        worker.execute {
            classifier?.close()
            classifier = null
        }
        worker.shutdown()
        super.onDestroy()
    }

    private fun prove() {
        try {
            val candidate = Classifier(BundleFolder(assets))
            val result = candidate.selfTest()
            classifier = candidate
            val text = getString(R.string.passed, result.images, result.largestDifference, result.tolerance)
            runOnUiThread { onProven(text) }
        } catch (error: Exception) { // whatever it is: no answers without a proof
            runOnUiThread { status.text = error.message }
        }
    }

    private fun onProven(text: String) {
        proof = text
        if (isAllowed()) start() else permission.launch(Manifest.permission.CAMERA)
    }

    private fun isAllowed() = checkSelfPermission(Manifest.permission.CAMERA) == PackageManager.PERMISSION_GRANTED

    private fun onAnswer(granted: Boolean) {
        if (granted) return start()
        status.text = getString(R.string.refused)
        allow.visibility = View.VISIBLE
    }

    /** After a second refusal Android no longer asks: only its settings help. */
    private fun askAgain() {
        if (shouldShowRequestPermissionRationale(Manifest.permission.CAMERA)) {
            permission.launch(Manifest.permission.CAMERA)
        } else {
            startActivity(
                Intent(Settings.ACTION_APPLICATION_DETAILS_SETTINGS, Uri.fromParts("package", packageName, null))
            )
        }
    }

    private fun start() {
        allow.visibility = View.GONE
        status.text = proof
        camera.setEnabledUseCases(CameraController.IMAGE_ANALYSIS)
        camera.setImageAnalysisAnalyzer(worker) { frame -> analyse(frame) }
        camera.bindToLifecycle(this)
        findViewById<PreviewView>(R.id.preview).controller = camera
    }

    private fun analyse(frame: ImageProxy) {
        val found = frame.use { classifier?.classify(upright(it)) } ?: return
        runOnUiThread { show(found) }
    }

    private fun upright(frame: ImageProxy): Bitmap {
        val bitmap = frame.toBitmap()
        val turn = Matrix().apply { postRotate(frame.imageInfo.rotationDegrees.toFloat()) }
        return Bitmap.createBitmap(bitmap, 0, 0, bitmap.width, bitmap.height, turn, true)
    }

    private fun show(found: List<Answer>) {
        val now = SystemClock.elapsedRealtime()
        if (now - shownAt < REFRESH_MS || found == shown) return
        val isNews = found.first().label != shown.firstOrNull()?.label
        shown = found
        shownAt = now
        // A screen reader speaks what changes: the label that won, not every probability that moved.
        answers.accessibilityLiveRegion =
            if (isNews) View.ACCESSIBILITY_LIVE_REGION_POLITE else View.ACCESSIBILITY_LIVE_REGION_NONE
        answers.text = found.joinToString("\n") { getString(R.string.answer, it.label, 100 * it.probability) }
    }
}
